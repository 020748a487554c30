//! Which names a node may have. Called by the node's configuration and by the side that admits a joiner. Pure.

/// Why a text may not name a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    /// Not a DNS-1123 subdomain of at most 63 characters.
    #[error(
        "{name:?} is not a valid node name: at most 63 lower-case letters, digits, '-' and '.', which begins and ends every part between dots with a letter or digit"
    )]
    Malformed {
        /// The name.
        name: String,
    },
    /// It reads as an address, or every node answers to it.
    #[error("{name:?} cannot name a node: {reason}; choose another with --name")]
    Reserved {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
}

/// Checks a node's name: a DNS-1123 subdomain, as Kubernetes wants it. It also has to fit into a label's value
/// (`kubernetes.io/hostname`), so 63 characters are the limit here and not Kubernetes' 253. Names that stand in every
/// node's certificate, and names that read as addresses, would make one node pass for another and are refused.
pub fn check_node_name(name: &str) -> Result<(), NodeNameError> {
    let part_is_good = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    if name.len() > 63 || !name.split('.').all(part_is_good) {
        return Err(NodeNameError::Malformed { name: name.to_owned() });
    }
    let reserved = |reason| {
        Err(NodeNameError::Reserved {
            name: name.to_owned(),
            reason,
        })
    };
    if name.parse::<std::net::IpAddr>().is_ok() {
        return reserved("it reads as an IP address");
    }
    if name == "localhost" || name == "kubernetes" || name.starts_with("kubernetes.default") {
        return reserved("every node answers to it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_subdomains_that_no_other_node_answers_to() {
        for good in ["n1", "a", "10-0-0-1", "web.eu-west.example.com", &"a".repeat(63)] {
            assert_eq!(check_node_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "N1",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "a_b",
            "a b",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(
                matches!(check_node_name(bad), Err(NodeNameError::Malformed { .. })),
                "{bad}"
            );
        }
        for taken in ["localhost", "kubernetes", "kubernetes.default.svc", "10.0.0.1"] {
            assert!(
                matches!(check_node_name(taken), Err(NodeNameError::Reserved { .. })),
                "{taken}"
            );
        }
    }
}
