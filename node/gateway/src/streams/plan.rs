//! What a session is about, from a request and its pod: which node, which container or ports, which streams. Refused in the
//! words of Kubernetes. Pure.

use serde_json::Value;

use api::access::Access;
use api::kinds::Subresource;
use api::status::Status;
use protocol::NodeName;
use protocol::session::{AttachSpec, ExecSpec, StreamChoice};

use crate::logs::container_of;
use crate::request::ApiRequest;

/// A session to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the pod runs.
    pub node: NodeName,
    /// The pod's name and uid, for messages.
    pub pod: PodNames,
    /// What is to be done there.
    pub work: Work,
}

/// How a pod is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNames {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run a command.
    Exec(ExecSpec),
    /// Join a container's streams.
    Attach(AttachSpec),
    /// Forward ports: those that are named, or through a tunnel whichever the client asks for.
    Ports(Vec<u16>),
}

/// Plans a session. `pairs` is the whole query, in which names may repeat.
pub fn plan(
    subresource: Subresource,
    request: &ApiRequest,
    pairs: &[(String, String)],
    pod: &Value,
) -> Result<Plan, Status> {
    let metadata = pod.at(&["metadata"]);
    let pod_names = PodNames {
        name: metadata.text("name").to_owned(),
        uid: metadata.text("uid").to_owned(),
    };
    let values = |name: &str| {
        let named = pairs.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.clone()).collect::<Vec<String>>()
    };
    let work = match subresource {
        Subresource::Exec => {
            let command = values("command");
            if command.first().is_none_or(String::is_empty) {
                return Err(Status::bad_request(
                    "you must specify at least one command for the container",
                ));
            }
            Work::Exec(ExecSpec {
                pod: pod_names.uid.clone(),
                container: container_of(request, pod)?,
                command,
                streams: streams(request)?,
            })
        }
        Subresource::Attach => Work::Attach(AttachSpec {
            pod: pod_names.uid.clone(),
            container: container_of(request, pod)?,
            streams: streams(request)?,
        }),
        Subresource::PortForward => Work::Ports(ports(&values("ports"))?),
        _ => return Err(Status::method_not_allowed_path()),
    };
    let node = pod.at(&["spec"]).text("nodeName");
    if node.is_empty() {
        let text = format!("pod {} does not have a host assigned", pod_names.name);
        return Err(Status::bad_request(text));
    }
    Ok(Plan {
        node: NodeName::from(node),
        pod: pod_names,
        work,
    })
}

/// The streams that a client wants; with a terminal, error is part of output.
fn streams(request: &ApiRequest) -> Result<StreamChoice, Status> {
    let tty = request.flag("tty");
    let choice = StreamChoice {
        stdin: request.flag("stdin"),
        stdout: request.flag("stdout"),
        stderr: request.flag("stderr") && !tty,
        tty,
    };
    if choice.stdin || choice.stdout || choice.stderr {
        return Ok(choice);
    }
    Err(Status::bad_request(
        "you must specify at least 1 of stdin, stdout, stderr",
    ))
}

/// Each value may name several ports.
fn ports(values: &[String]) -> Result<Vec<u16>, Status> {
    let texts = values.iter().flat_map(|value| value.split(','));
    let ports = texts.filter(|text| !text.is_empty()).map(|text| {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| Status::bad_request(format!("unable to parse {text:?} as a port: 1 to 65535 are ports")))
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(query: &str) -> (ApiRequest, Vec<(String, String)>) {
        let pairs: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        (crate::logs::tests::request(query), pairs)
    }

    fn planned(subresource: Subresource, query: &str, node: &str) -> Result<Plan, Status> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"nodeName": node, "containers": [{"name": "a"}, {"name": "b"}]},
        });
        let (request, pairs) = request(query);
        plan(subresource, &request, &pairs, &pod)
    }

    #[test]
    fn commands_keep_their_order_and_terminals_have_one_output() {
        let plan = planned(
            Subresource::Exec,
            "command=sh&command=-c&command=ls&container=b&stdin=true&stdout=1&stderr=true&tty=true",
            "n1",
        );
        let plan = plan.unwrap();
        assert_eq!((plan.node.as_str(), plan.pod.name.as_str()), ("n1", "p"));
        let Work::Exec(spec) = plan.work else { panic!() };
        assert_eq!(spec.command, ["sh", "-c", "ls"]);
        assert_eq!((spec.pod.as_str(), spec.container.as_str()), ("u", "b"));
        let expected = StreamChoice {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert_eq!(spec.streams, expected);
    }

    #[test]
    fn ports_come_one_by_one_or_in_a_list() {
        for (query, ports) in [
            ("ports=80&ports=81", vec![80, 81]),
            ("ports=80,81", vec![80, 81]),
            ("", vec![]),
        ] {
            let plan = planned(Subresource::PortForward, query, "n1").unwrap();
            assert_eq!(plan.work, Work::Ports(ports), "{query}");
        }
    }

    #[test]
    fn what_cannot_begin_is_refused() {
        use Subresource::{Attach, Exec, PortForward};
        let cases = [
            (
                Exec,
                "container=a&stdout=true",
                "n1",
                "you must specify at least one command for the container",
            ),
            (
                Exec,
                "container=a&command=ls",
                "n1",
                "you must specify at least 1 of stdin, stdout, stderr",
            ),
            (
                Exec,
                "container=a&command=ls&tty=true&stderr=true",
                "n1",
                "you must specify at least 1 of stdin, stdout, stderr",
            ),
            (
                Attach,
                "stdout=true",
                "n1",
                "a container name must be specified for pod p, choose one of: [a b]",
            ),
            (
                Attach,
                "container=c&stdout=true",
                "n1",
                "container c is not valid for pod p",
            ),
            (
                Attach,
                "container=a&stdout=true",
                "",
                "pod p does not have a host assigned",
            ),
            (
                PortForward,
                "ports=0",
                "n1",
                "unable to parse \"0\" as a port: 1 to 65535 are ports",
            ),
            (
                PortForward,
                "ports=70000",
                "n1",
                "unable to parse \"70000\" as a port: 1 to 65535 are ports",
            ),
        ];
        for (subresource, query, node, message) in cases {
            assert_eq!(
                planned(subresource, query, node).unwrap_err().message,
                message,
                "{query}"
            );
        }
    }
}
