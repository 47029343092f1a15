//! Rows as comma-separated values.

use std::path::Path;

use csv::Writer;
use serde::Serialize;

use super::Row;

/// The columns; all times in microseconds.
#[derive(Serialize)]
struct Record<'a> {
    guest: &'a str,
    memory_mib: u32,
    vcpus: u8,
    dirty_pages: u64,
    strategy: &'a str,
    iterations: u32,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    max_us: f64,
    parts_stop_us: f64,
    parts_collect_us: f64,
    parts_copy_us: f64,
    parts_devices_us: f64,
    parts_disk_us: f64,
    parts_vm_us: f64,
    parts_vcpus_us: f64,
    parts_resume_us: f64,
    next_run_us: f64,
}

impl<'a> From<&'a Row> for Record<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            guest: &row.guest,
            memory_mib: row.memory_mib,
            vcpus: row.vcpus,
            dirty_pages: row.dirty_pages,
            strategy: &row.strategy,
            iterations: row.iterations,
            p50_us: row.p50_us,
            p90_us: row.p90_us,
            p99_us: row.p99_us,
            max_us: row.max_us,
            parts_stop_us: row.parts_us.stop,
            parts_collect_us: row.parts_us.collect,
            parts_copy_us: row.parts_us.copy,
            parts_devices_us: row.parts_us.devices,
            parts_disk_us: row.parts_us.disk,
            parts_vm_us: row.parts_us.vm,
            parts_vcpus_us: row.parts_us.vcpus,
            parts_resume_us: row.parts_us.resume,
            next_run_us: row.next_run_us,
        }
    }
}

/// Writes `rows` without their samples to `path`, below a header. Without rows there is no file.
pub fn write_csv(path: &Path, rows: &[Row]) -> Result<(), csv::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut writer = Writer::from_path(path)?;
    for row in rows {
        writer.serialize(Record::from(row))?;
    }
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sweep::tests::row;

    #[test]
    fn a_header_stands_above_the_rows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.csv");
        let rows = [row("copy-back", 128, 256, 1.5), row("a,b", 128, 256, 3.0)];
        write_csv(&path, &rows).unwrap();
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "guest,memory_mib,vcpus,dirty_pages,strategy,iterations,p50_us,p90_us,p99_us,\
                 max_us,parts_stop_us,parts_collect_us,parts_copy_us,parts_devices_us,\
                 parts_disk_us,parts_vm_us,parts_vcpus_us,parts_resume_us,next_run_us",
                "micro,128,1,256,copy-back,3,1.5,3.0,4.5,6.0,1.0,2.0,1.5,0.0,0.0,0.0,0.0,0.0,7.5",
                "micro,128,1,256,\"a,b\",3,3.0,6.0,9.0,12.0,1.0,2.0,3.0,0.0,0.0,0.0,0.0,0.0,15.0",
            ]
        );
    }

    #[test]
    fn no_rows_make_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.csv");
        write_csv(&path, &[]).unwrap();
        assert!(!path.exists());
    }
}
