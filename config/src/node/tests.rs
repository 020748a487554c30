//! Tables over the merging and the validation of a node's configuration.

use clap::Parser;

use super::*;

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    node: NodeArguments,
}

fn machine() -> MachineFacts {
    MachineFacts {
        host_name: "Host-7".to_owned(),
        default_address: Some("192.0.2.7".parse().unwrap()),
    }
}

fn arguments(flags: &[&str]) -> NodeArguments {
    CommandLine::try_parse_from([&["start"], flags].concat()).unwrap().node
}

fn resolved(flags: &[&str], file: &str) -> Result<NodeConfiguration, ConfigurationError> {
    resolve(
        &arguments(flags),
        &NodeFile::parse(Path::new("node.toml"), file)?,
        &machine(),
    )
}

fn token() -> String {
    JoinToken::from_random([1; 32], [2; crate::token::RANDOM_BYTES]).to_string()
}

#[test]
fn without_anything_the_defaults_hold() {
    let node = resolved(&[], "").unwrap();
    assert_eq!(node.name.as_str(), "host-7");
    assert_eq!(node.mesh_address().to_string(), "192.0.2.7:7443");
    assert_eq!(node.https_address().to_string(), "192.0.2.7:6443");
    assert_eq!(node.mesh_bind().to_string(), "0.0.0.0:7443");
    assert_eq!(node.kubeconfig, Path::new("/var/lib/actorium/kubeconfig"));
    assert_eq!(node.settings.kubernetes_service(), Ipv4Addr::new(10, 96, 0, 1));
    assert_eq!(node.settings.dns_service(), Ipv4Addr::new(10, 96, 0, 10));
    assert_eq!(
        node.reserved,
        ReservedResources {
            cpu_milli: 0,
            memory_bytes: 100 << 20
        }
    );
    assert_eq!(node.join, None);
    let nowhere = MachineFacts {
        default_address: None,
        ..machine()
    };
    let node = resolve(&arguments(&[]), &NodeFile::default(), &nowhere).unwrap();
    assert_eq!(node.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
}

#[test]
fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
    let file = "name='from-file'\nmesh_port=7001\nlabels={zone='b'}\ntaints=['a:NoExecute']\nreserved_cpu='250m'\n";
    let node = resolved(&["--name", "from-flag", "--label", "zone=a,disk=ssd"], file).unwrap();
    assert_eq!(
        (node.name.as_str(), node.mesh_port, node.https_port),
        ("from-flag", 7001, DEFAULT_HTTPS_PORT)
    );
    assert_eq!(
        node.labels,
        BTreeMap::from([
            ("zone".to_owned(), "a".to_owned()),
            ("disk".to_owned(), "ssd".to_owned())
        ])
    );
    let taint = Taint {
        key: "a".to_owned(),
        value: String::new(),
        effect: TaintEffect::NoExecute,
    };
    assert_eq!(node.taints, [taint]);
    assert_eq!(node.reserved.cpu_milli, 250);
}

#[test]
fn an_environment_variable_fills_an_absent_flag() {
    let text = <CommandLine as clap::CommandFactory>::command()
        .render_long_help()
        .to_string();
    for variable in [
        "ACTORIUM_NAME",
        "ACTORIUM_DATA_DIR",
        "ACTORIUM_JOIN",
        "ACTORIUM_TOKEN",
        "ACTORIUM_CONFIG",
    ] {
        assert!(text.contains(variable), "{variable} is missing in {text}");
    }
}

#[test]
fn a_joiner_needs_addresses_and_a_token() {
    let token = token();
    let node = resolved(
        &[
            "--join",
            "10.0.0.1,node-2:7000",
            "--join",
            "[fd00::1]:1,fd00::2",
            "--token",
            &token,
        ],
        "",
    )
    .unwrap();
    let addresses: Vec<String> = node.join.unwrap().addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        ["10.0.0.1:7443", "node-2:7000", "[fd00::1]:1", "[fd00::2]:7443"]
    );

    let error = resolved(&["--join", "10.0.0.1"], "").unwrap_err().to_string();
    assert!(
        error.contains("without a token") && error.contains("actorium token create"),
        "{error}"
    );
    let error = resolved(&["--token", &token], "").unwrap_err().to_string();
    assert!(error.contains("--join"), "{error}");
    assert!(matches!(
        resolved(&["--join", "a", "--token", "x"], ""),
        Err(ConfigurationError::Token(_))
    ));
    for bad in ["", "a:b", "a:0", "http://a", "a b"] {
        let error = resolved(&["--join", bad, "--token", &token], "");
        assert!(error.is_err(), "{bad:?} gave {error:?}");
    }
}

#[test]
fn every_refusal_names_the_setting_and_the_remedy() {
    let cases: [(&[&str], &str); 16] = [
        (&["--name", "Not A Name"], "is not a valid node name"),
        (&["--name", "localhost"], "every node answers to it"),
        (
            &["--data-dir", "relative"],
            "data-dir = \"relative\": must be an absolute path",
        ),
        (&["--address", "0.0.0.0"], "address = \"0.0.0.0\""),
        (&["--mesh-port", "0"], "mesh-port = \"0\": must be from 1 to 65535"),
        (
            &["--cluster-cidr", "10.244.0.0"],
            "cluster-cidr: \"10.244.0.0\" is not an IPv4 range",
        ),
        (
            &["--cluster-cidr", "10.244.0.0/25"],
            "must hold at least one node's range",
        ),
        (&["--service-cidr", "10.0.0.0/29"], "must hold at least 16 addresses"),
        (
            &["--service-cidr", "10.244.0.0/24"],
            "overlaps cluster-cidr 10.244.0.0/16",
        ),
        (&["--cluster-domain", "Cluster!"], "is not a DNS domain"),
        (&["--label", "zone"], "is not KEY=VALUE"),
        (&["--label=-zone=a"], "its key is not a Kubernetes label key"),
        (&["--label", "zone=-a"], "its value is not a Kubernetes label value"),
        (
            &["--taint", "a=b:Never"],
            "none of NoSchedule, PreferNoSchedule and NoExecute",
        ),
        (&["--reserved-cpu", "lots"], "reserved-cpu = \"lots\""),
        (&["--reserved-memory=-1Gi"], "must not be negative"),
    ];
    for (flags, expected) in cases {
        let error = resolved(flags, "").unwrap_err().to_string();
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}

#[test]
fn a_token_file_is_read_and_a_missing_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, format!("{}\n", token())).unwrap();
    let file = directory.path().join("node.toml");
    std::fs::write(&file, format!("join=['n1']\ntoken_file='{}'\n", path.display())).unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    assert!(load(&arguments(&flags), &machine()).unwrap().join.is_some());
    std::fs::remove_file(&path).unwrap();
    let error = load(&arguments(&flags), &machine()).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    let error = load(&arguments(&["--config", "/nonexistent/node.toml"]), &machine())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("/nonexistent/node.toml cannot be read"), "{error}");
}
