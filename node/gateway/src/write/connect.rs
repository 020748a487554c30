//! Connections to pods on their way through admission: exec, attach and port-forward write nothing, but webhooks may refuse
//! them.

use api::kinds::Subresource;
use api::status::Status;
use serde_json::{Value, json};

use admission::Operation;
use admission::matching::Verb;

use super::{Circumstances, Writer};
use crate::route::Target;

impl Writer {
    /// Asks whether a connection may be made. `pairs` is the whole query, in which names may repeat. What a webhook would change of
    /// the options is not taken over: they are the request's own.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub async fn connect(
        &self,
        target: &Target,
        pairs: &[(String, String)],
        with: &Circumstances,
    ) -> Result<(), Status> {
        let Some(subresource) = target.subresource else {
            return Ok(());
        };
        let mut options = connect_options(target, subresource, pairs);
        let mut gate = self.gate(target, Operation::Update, &options, with).await?;
        if !gate.asks() {
            return Ok(());
        }
        gate.verb = Verb::Connect;
        gate.options = Value::Null;
        gate.consult(&mut options, &Value::Null).await.map(|_| ())
    }
}

/// The request as the object that Kubernetes makes of it: PodExecOptions and so on.
fn connect_options(target: &Target, subresource: Subresource, pairs: &[(String, String)]) -> Value {
    let (_, version, kind) = subresource.body(target.kind);
    let mut options = json!({"apiVersion": version, "kind": kind});
    for (name, value) in pairs {
        match name.as_str() {
            "stdin" | "stdout" | "stderr" | "tty" => {
                options[name] = matches!(value.as_str(), "true" | "1").into();
            }
            "container" => options[name] = value.as_str().into(),
            "command" => push(&mut options, name, value.as_str().into()),
            "ports" => {
                for port in value.split(',').filter_map(|port| port.trim().parse::<u16>().ok()) {
                    push(&mut options, name, port.into());
                }
            }
            _ => {}
        }
    }
    options
}

fn push(options: &mut Value, name: &str, value: Value) {
    match options[name].as_array_mut() {
        Some(items) => items.push(value),
        None => options[name] = json!([value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_told_as_its_options() {
        let pods = api::kinds::find("", "v1", "pods").expect("pods are a kind");
        let target = Target {
            kind: pods,
            namespace: "d".into(),
            name: Some("p".into()),
            subresource: Some(Subresource::Exec),
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = [
            pair("command", "sh"),
            pair("command", "-c"),
            pair("stdin", "true"),
            pair("container", "c"),
        ];
        assert_eq!(
            connect_options(&target, Subresource::Exec, &pairs),
            json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["sh", "-c"], "stdin": true, "container": "c"})
        );
        assert_eq!(
            connect_options(&target, Subresource::PortForward, &[pair("ports", "80,81")])["ports"],
            json!([80, 81])
        );
    }
}
