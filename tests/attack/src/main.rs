//! `attack NAME [ARGUMENT...]`: tries to get out of the sandbox, and says in JSON what came of it.
//! As PID 1 it is a guest that behaves until it is asked not to.

mod egress;
mod exhaust;
mod files;
mod flood;
mod hold;
mod hostile;
mod log;
mod marker;
mod output;
mod process;
mod system;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return hostile::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["egress"] => egress::run(&[]),
        ["egress", listening] => egress::run(&numbers(listening)),
        ["exhaust", what] => exhaust::run(what),
        ["flood", what, milliseconds] => match milliseconds.parse() {
            Ok(milliseconds) => flood::run(what, milliseconds),
            Err(_) => ExitCode::from(2),
        },
        ["files", host_file, secret] => files::run(host_file, secret),
        ["hold", how] => hold::run(how),
        ["mark", marker] => marker::leave(marker, 0),
        ["mark", marker, stay_ms] => match stay_ms.parse() {
            Ok(stay_ms) => marker::leave(marker, stay_ms),
            Err(_) => ExitCode::from(2),
        },
        ["find", marker] => marker::find(marker),
        ["output", stdout, stderr] => output::run(stdout, stderr),
        ["process"] => process::run(),
        ["destroy", how] => process::destroy(how),
        _ => {
            eprintln!("attack: no attack {arguments:?}");
            ExitCode::from(2)
        }
    }
}

/// Numbers separated by commas; what is none is left out.
fn numbers(text: &str) -> Vec<u32> {
    text.split(',').filter_map(|number| number.parse().ok()).collect()
}
