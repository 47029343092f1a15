use super::*;

fn environment(pairs: &'static [(&'static str, &'static str)]) -> Environment {
    Environment::read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
        .unwrap()
}

fn file(text: &str) -> ConfigFile {
    ConfigFile::parse(Path::new("/etc/x/config.toml"), text).unwrap()
}

fn resolve(
    flags: Overrides,
    environment: Environment,
    file: Option<ConfigFile>,
) -> Result<Config, ConfigError> {
    Config::resolve(flags, environment, file, "/image".into())
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn nothing_set_gives_the_defaults() {
    let config = resolve(Overrides::default(), Environment::default(), None).unwrap();
    assert_eq!(
        config.sandbox,
        SandboxSpec {
            image: ImageSource { dir: "/image".into(), kernel: None, rootfs: None },
            vcpus: 1,
            memory_mib: 128,
            enable_tools: Vec::new(),
            resets: Resets::Unverified,
        }
    );
    assert_eq!(config.kvm, KvmConfig::default());
    assert_eq!((config.kvm.guest_cid, config.kvm.guest_port), (3, None));
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let all = "memory_mib = 200\nvcpus = 2\ncid = 20\n";
    let variables = environment(&[("BSM_MEMORY_MIB", "300"), ("BSM_VCPUS", "3")]);
    let flags = Overrides { memory_mib: Some(400), ..Overrides::default() };
    let config = resolve(flags, variables, Some(file(all))).unwrap();
    assert_eq!((config.sandbox.memory_mib, config.sandbox.vcpus), (400, 3));
    assert_eq!((config.kvm.guest_cid, config.kvm.guest_port), (20, None));
}

#[test]
fn every_variable_is_read() {
    let variables = environment(&[
        ("BSM_IMAGE_DIR", "/i"),
        ("BSM_KERNEL", "/k"),
        ("BSM_ROOTFS", "/r"),
        ("BSM_GUEST_PORT", "1024"),
        ("BSM_MEMORY_MIB", "64"),
        ("BSM_VCPUS", "8"),
        ("BSM_CID", "4294967294"),
        ("BSM_ENABLE_TOOLS", "sh, other"),
    ]);
    let config = resolve(Overrides::default(), variables, None).unwrap();
    assert_eq!(
        config.sandbox,
        SandboxSpec {
            image: ImageSource {
                dir: "/i".into(),
                kernel: Some("/k".into()),
                rootfs: Some("/r".into()),
            },
            vcpus: 8,
            memory_mib: 64,
            enable_tools: vec!["sh".into(), "other".into()],
            resets: Resets::Unverified,
        }
    );
    assert_eq!((config.kvm.guest_cid, config.kvm.guest_port), (u32::MAX - 1, Some(1024)));
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let variables = environment(&[("BSM_KERNEL", ""), ("BSM_VCPUS", "")]);
    let config = resolve(Overrides::default(), variables, Some(file("vcpus = 4"))).unwrap();
    assert_eq!((config.sandbox.image.kernel, config.sandbox.vcpus), (None, 4));
}

#[test]
fn every_file_key_is_read_and_paths_start_at_the_file() {
    let text = "image_dir = 'image'\nkernel = '/k'\nrootfs = 'r'\nvcpus = 2\nmemory_mib = 256\n\
                cid = 5\nguest_port = 9000\nenable_tools = ['sh']\n";
    let config = resolve(Overrides::default(), Environment::default(), Some(file(text))).unwrap();
    let (config, kvm) = (config.sandbox, config.kvm);
    assert_eq!(config.image.dir, Path::new("/etc/x/image"));
    assert_eq!(config.image.kernel.as_deref(), Some(Path::new("/k")));
    assert_eq!(config.image.rootfs.as_deref(), Some(Path::new("/etc/x/r")));
    assert_eq!((config.vcpus, config.memory_mib, kvm.guest_cid), (2, 256, 5));
    assert_eq!((kvm.guest_port, config.enable_tools), (Some(9000), vec!["sh".into()]));
}

#[test]
fn errors_name_value_origin_and_range() {
    let flags = Overrides { guest_port: Some(0), ..Overrides::default() };
    assert_eq!(
        message(resolve(flags, Environment::default(), None)),
        "guest port is 0 (flag --guest-port): give 1 to 65535"
    );
    assert_eq!(
        message(resolve(Overrides::default(), environment(&[("BSM_CID", "2")]), None)),
        "guest CID is 2 (environment variable BSM_CID): give 3 to 4294967294"
    );
    assert_eq!(
        message(resolve(
            Overrides::default(),
            Environment::default(),
            Some(file("memory_mib = 32"))
        )),
        "memory in MiB is 32 (key `memory_mib` in /etc/x/config.toml): give 64 to 8192"
    );
    let flags = Overrides { vcpus: Some(257), ..Overrides::default() };
    assert_eq!(
        message(resolve(flags, Environment::default(), None)),
        "number of vCPUs is 257 (flag --vcpus): give 1 to 8"
    );
}

#[test]
fn ranges_are_exact() {
    let limits = [
        ("vcpus", 1_i64, 8),
        ("memory_mib", 64, 8192),
        ("cid", 3, 4_294_967_294),
        ("guest_port", 1, 65535),
    ];
    for (key, min, max) in limits {
        for (value, good) in [(min - 1, false), (min, true), (max, true), (max + 1, false)] {
            let file = Some(file(&format!("{key} = {value}")));
            let result = resolve(Overrides::default(), Environment::default(), file);
            assert_eq!(result.is_ok(), good, "{key} = {value}");
        }
    }
}

#[test]
fn a_variable_that_is_no_number_is_named() {
    let error = Environment::read(|name| (name == "BSM_VCPUS").then(|| "many".into()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "environment variable BSM_VCPUS is \"many\": give a whole number, 1 to 8"
    );
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_their_place() {
    for (text, word) in [("memory = 1", "memory"), ("vcpus = 'two'", "vcpus")] {
        let error = ConfigFile::parse(Path::new("/c.toml"), text).unwrap_err().to_string();
        assert!(error.starts_with("/c.toml is not a valid configuration"), "{error}");
        assert!(error.contains("line 1") && error.contains(word), "{error}");
    }
}

#[test]
fn tool_names_that_could_change_the_command_line_are_refused() {
    for name in ["", "a b", "a,b", "x=y", "sh\n"] {
        let flags = Overrides { enable_tools: Some(vec![name.into()]), ..Overrides::default() };
        let error = message(resolve(flags, Environment::default(), None));
        assert!(error.contains("--enable-tool"), "{error}");
    }
}

#[test]
fn empty_paths_are_refused() {
    let error =
        message(resolve(Overrides::default(), Environment::default(), Some(file("kernel = ''"))));
    assert!(error.starts_with("kernel is empty (key `kernel`"), "{error}");
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let missing = Path::new("/nonexistent/config.toml");
    assert!(matches!(ConfigFile::read(missing), Err(ConfigError::Read { .. })));
    assert!(ConfigFile::read_if_present(missing).unwrap().is_none());
}

fn run(text: &str) -> Result<RunConfig, ConfigError> {
    let (flags, variables) = (Overrides::default(), Environment::default());
    Config::resolve(flags, variables, Some(file(text)), "/image".into()).map(|config| config.run)
}

#[test]
fn an_agent_without_settings_keeps_its_state_in_one_place() {
    let config = run("").unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/brainstorm-agent"));
    assert_eq!(config.keys_file, config.state_dir.join("keys.toml"));
    assert_eq!(config.policy_file, config.state_dir.join("policy.toml"));
    assert!(!config.policy_named);
    assert_eq!(config.kill_switch, config.state_dir.join("KILL"));
    assert_eq!((config.machines, config.queue, config.nonce_capacity), (1, 64, 100_000));
    assert_eq!((config.relay, config.ca_file, config.metrics_listen), (None, None, None));
    assert!(!config.allow_plain_relay && !config.allow_volatile_state);
}

#[test]
fn the_table_for_serving_is_read_and_its_paths_start_at_the_file() {
    let config =
        run("state_dir = 'state'\nrelay = 'wss://r'\nmachines = 4\n[run]\nca_file = 'ca.pem'\n\
         policy_file = '/p'\nmetrics_listen = '127.0.0.1:9464'\nnonce_capacity = 100001\n")
        .unwrap();
    assert_eq!(config.state_dir, Path::new("/etc/x/state"));
    assert_eq!(config.ca_file.as_deref(), Some(Path::new("/etc/x/ca.pem")));
    assert_eq!(config.policy_file, Path::new("/p"));
    assert!(config.policy_named, "then it has to be there");
    assert_eq!(config.keys_file, Path::new("/etc/x/state/keys.toml"));
    assert_eq!((config.relay.as_deref(), config.machines), (Some("wss://r"), 4));
    assert_eq!(config.nonce_capacity, 100_001);
}

#[test]
fn an_agent_listens_on_loopback_only() {
    let error = run("[run]\nmetrics_listen = '0.0.0.0:9464'").unwrap_err();
    assert!(matches!(error, ConfigError::MetricsNotLocal { .. }), "{error}");
    assert!(ConfigFile::parse(Path::new("/x"), "[run]\nmetrics = 1").is_err());
    assert!(run("machines = 0").is_err());
    assert!(run("queue = -1").is_err());
}

#[test]
fn every_backend_is_made_of_its_own_settings() {
    let flags = Overrides { cid: Some(9), ..Overrides::default() };
    let config = resolve(flags, Environment::default(), None).unwrap();
    for name in sandbox::BACKEND_NAMES {
        assert_eq!(config.backend(name).unwrap().name(), *name);
    }
    let backend = config.backend(KvmConfig::NAME).unwrap();
    let kvm = (&*backend as &dyn std::any::Any).downcast_ref::<KvmConfig>().unwrap();
    assert_eq!(kvm.guest_cid, 9);
    assert!(config.backend("no such backend").is_none());
}

#[test]
fn a_number_of_the_table_out_of_its_range_is_refused_with_the_range() {
    for (line, range) in [
        ("nonce_capacity = 99999", "100000 to 4294967295"),
        ("nonce_capacity = -1", "100000 to 4294967295"),
        ("nonce_capacity = 4294967296", "100000 to 4294967295"),
        ("stop_patience_s = 65536", "0 to 65535"),
        ("evidence_mib = -1", "0 to 4294967295"),
        ("evidence_days = 65536", "0 to 65535"),
    ] {
        let file = file(&format!("[run]\n{line}\n"));
        let said = message(resolve(Overrides::default(), Environment::default(), Some(file)));
        let (key, value) = line.split_once(" = ").unwrap();
        for part in [key, value, range, "/etc/x/config.toml"] {
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}

#[test]
fn the_longest_frame_has_a_default_and_a_range() {
    let frame = |text: &str| {
        let (flags, environment) = (Overrides::default(), Environment::default());
        let config = Config::resolve(flags, environment, Some(file(text)), "/image".into());
        config.map(|config| config.run.frame_bytes).map_err(|error| error.to_string())
    };
    assert_eq!(frame(""), Ok(60 << 10));
    assert_eq!(frame("[run]\nframe_kib = 8"), Ok(8 << 10));
    assert_eq!(frame("[run]\nframe_kib = 1024"), Ok(1 << 20));
    for value in ["7", "1025", "-1", "9223372036854775807"] {
        let text = format!("[run]\nframe_kib = {value}");
        let refused = frame(&text).unwrap_err();
        assert!(refused.contains("frame_kib") && refused.contains("8 to 1024"), "{refused}");
    }
}
