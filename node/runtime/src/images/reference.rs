//! Names of images: containerd's normal form (`docker.io/library/NAME:latest`), and which registries are asked without TLS.
//! Pure.

use oci_client::Reference;
use protocol::runtime::RuntimeError;

/// Parses a reference and completes it: default registry, `library/`, tag `latest`.
///
/// # Errors
/// It does not follow the grammar.
pub fn normalize(reference: &str) -> Result<Reference, RuntimeError> {
    Reference::try_from(reference).map_err(|error| RuntimeError::ImageName {
        reference: reference.to_owned(),
        reason: format!("{error}; write it as [registry/]name[:tag][@digest], in lower case"),
    })
}

/// Whether a registry is asked by plain http: loopback ones, which have no certificates, and those that the node's
/// configuration names.
pub(super) fn is_plain_http(registry: &str, insecure: &[String]) -> bool {
    if insecure.iter().any(|name| name == registry) {
        return true;
    }
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_containerd_completes_them() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("a/b:1", "docker.io/a/b:1".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            ("reg.example/x/y:2", "reg.example/x/y:2".to_owned()),
            (&format!("x@{digest}"), format!("docker.io/library/x@{digest}")),
        ];
        for (given, expected) in cases {
            assert_eq!(normalize(given).unwrap().whole(), expected);
        }
        for bad in ["", "UPPER", "a b", "x:", "@sha256:1"] {
            assert!(matches!(normalize(bad), Err(RuntimeError::ImageName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn only_loopback_and_named_registries_are_asked_without_tls() {
        let insecure = vec!["10.0.0.1:5000".to_owned()];
        for plain in [
            "localhost:5000",
            "localhost",
            "127.0.0.1:5000",
            "[::1]:5000",
            "10.0.0.1:5000",
        ] {
            assert!(is_plain_http(plain, &insecure), "{plain}");
        }
        for tls in ["docker.io", "10.0.0.1:5001", "localhost.example:5000", "10.0.0.2:5000"] {
            assert!(!is_plain_http(tls, &insecure), "{tls}");
        }
    }
}
