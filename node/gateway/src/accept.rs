//! In which form a client wants objects: whole, as a table, or their metadata only; JSON or YAML. Pure, after RFC 9110's
//! `Accept` and Kubernetes' `as`, `g` and `v` parameters.

use api::status::Status;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Objects as they are stored.
    Objects,
    /// meta.k8s.io/v1 Table.
    Table,
    /// meta.k8s.io/v1 PartialObjectMetadata.
    Metadata,
    /// apidiscovery.k8s.io/v2: for discovery documents only.
    AggregatedDiscovery,
}

/// The encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// application/json.
    Json,
    /// application/yaml.
    Yaml,
}

/// Chooses form and encoding. The first acceptable entry counts; Kubernetes' clients list them by preference.
pub fn negotiate(accept: &str) -> Result<(Form, Encoding), Status> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let encoding = match media_type {
            "*/*" | "application/*" | "application/json" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let form = match (parameter("as"), parameter("g"), parameter("v")) {
            (None, ..) => Form::Objects,
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Form::Table,
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                Form::Metadata
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Form::AggregatedDiscovery,
            _ => continue,
        };
        return Ok((form, encoding));
    }
    Err(Status::not_acceptable(&["application/json", "application/yaml"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acceptable_entry_counts() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases = [
            ("", Form::Objects, Encoding::Json),
            ("*/*", Form::Objects, Encoding::Json),
            (table, Form::Table, Encoding::Json),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Form::Objects,
                Encoding::Json,
            ),
            ("application/yaml", Form::Objects, Encoding::Yaml),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Form::Metadata,
                Encoding::Json,
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Form::AggregatedDiscovery,
                Encoding::Json,
            ),
        ];
        for (accept, form, encoding) in cases {
            assert_eq!(negotiate(accept).unwrap(), (form, encoding), "{accept}");
        }
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
    }
}
