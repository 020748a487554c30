//! `pods/log`: finds which log of which container is meant and asks the pod's node for it. What cannot be read is refused
//! in the words of Kubernetes' kubelet, from the pod's status, before any node is asked.

use futures::StreamExt;
use serde_json::Value;

use api::access::Access;
use api::status::Status;
use protocol::node::{NodeDoor, NodeDoorError};
use protocol::runtime::LogRequest;
use protocol::{NodeName, UnixMillis};

use crate::request::{ApiRequest, ApiResponse};

/// Opens the log that a request asks for.
pub async fn open(
    nodes: &dyn NodeDoor,
    request: &ApiRequest,
    pod: &Value,
    now: UnixMillis,
) -> Result<ApiResponse, Status> {
    let (node, log) = log_request(request, pod, now)?;
    match nodes.logs(&node, log).await {
        Ok(stream) => {
            let parts = stream.map(|part| match part {
                Ok(bytes) => bytes,
                Err(error) => bytes::Bytes::from(format!("{error}\n")),
            });
            Ok(ApiResponse::stream("text/plain; charset=utf-8", Box::pin(parts)))
        }
        Err(NodeDoorError::Refused(reason) | NodeDoorError::Absent(reason)) => Err(Status::bad_request(reason)),
        Err(error @ NodeDoorError::Unreachable { .. }) => Err(Status::internal(error.to_string())),
    }
}

/// Which container's log a request means.
pub(crate) fn container_of(request: &ApiRequest, pod: &Value) -> Result<String, Status> {
    let name = pod.at(&["metadata"]).text("name");
    let names = |list: &str| {
        pod.at(&["spec"])
            .items(list)
            .iter()
            .map(|container| container.text("name"))
            .collect::<Vec<&str>>()
    };
    let (own, init) = (names("containers"), names("initContainers"));
    let choice = |names: &[&str]| format!("[{}]", names.join(" "));
    match (request.parameter("container"), own.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", many) => {
            let also = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: {}", choice(&init))
            };
            let text = format!(
                "a container name must be specified for pod {name}, choose one of: {}{also}",
                choice(many)
            );
            Err(Status::bad_request(text))
        }
        (wanted, _)
            if [&own, &init, &names("ephemeralContainers")]
                .iter()
                .any(|list| list.contains(&wanted)) =>
        {
            Ok(wanted.to_owned())
        }
        (wanted, _) => Err(Status::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        ))),
    }
}

/// Whether the container has a log, by the pod's status (kubelet's validateContainerLogStatus).
fn check_started(pod: &Value, container: &str, previous: bool) -> Result<(), Status> {
    let name = pod.at(&["metadata"]).text("name");
    let lists = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    let statuses = lists.map(|list| pod.at(&["status"]).items(list));
    let status = statuses
        .into_iter()
        .flatten()
        .find(|status| status.text("name") == container);
    let waits = |why: String| {
        Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is waiting to start: {why}"
        )))
    };
    let Some(status) = status else {
        return waits("ContainerCreating".to_owned());
    };
    let terminated_before = status.at(&["lastState", "terminated"]).is_object();
    if previous && !terminated_before {
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {name:?} not found"
        )));
    }
    let has_log = status.at(&["state", "running"]).is_object() || status.at(&["state", "terminated"]).is_object();
    if previous || has_log || terminated_before {
        return Ok(());
    }
    match status.at(&["state", "waiting"]).text("reason") {
        "" => waits("no logs yet".to_owned()),
        "ErrImagePull" => waits("image can't be pulled".to_owned()),
        "ImagePullBackOff" => waits("trying and failing to pull image".to_owned()),
        reason => waits(reason.to_owned()),
    }
}

/// Which log of which container on which node, refused as Kubernetes refuses it.
fn log_request(request: &ApiRequest, pod: &Value, now: UnixMillis) -> Result<(NodeName, LogRequest), Status> {
    let metadata = pod.at(&["metadata"]);
    let container = container_of(request, pod)?;
    let node = pod.at(&["spec"]).text("nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            metadata.text("name")
        )));
    }
    let previous = request.flag("previous");
    check_started(pod, &container, previous)?;
    let log = LogRequest {
        namespace: metadata.text("namespace").to_owned(),
        uid: metadata.text("uid").to_owned(),
        pod: metadata.text("name").to_owned(),
        container,
        previous,
        follow: request.flag("follow"),
        timestamps: request.flag("timestamps"),
        tail_lines: request.number("tailLines")?,
        limit_bytes: request.number("limitBytes")?,
        since_ms: since(request, now)?,
    };
    Ok((NodeName::from(node), log))
}

/// The instant before which nothing is shown: `sinceSeconds` or `sinceTime`, of which only one may be given.
fn since(request: &ApiRequest, now: UnixMillis) -> Result<Option<u64>, Status> {
    let refused = |reason: &'static str, message: String| {
        let cause = api::cause::Cause {
            field: "sinceSeconds".to_owned(),
            reason: reason.into(),
            message,
        };
        Status::invalid_of("", "PodLogOptions", "", vec![cause])
    };
    match (request.number("sinceSeconds")?, request.parameter("sinceTime")) {
        (None, "") => Ok(None),
        (Some(0), _) => Err(refused(
            "FieldValueInvalid",
            "Invalid value: 0: must be greater than 0".to_owned(),
        )),
        (Some(seconds), "") => Ok(Some(now.0.saturating_sub(seconds.saturating_mul(1000)))),
        (Some(_), _) => {
            let why = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
            Err(refused("FieldValueForbidden", why.to_owned()))
        }
        (None, text) => {
            let time = api::time::parse(text);
            time.map(|time| Some(time.0))
                .ok_or_else(|| Status::bad_request(format!("sinceTime {text:?} is no RFC 3339 time")))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn request(query: &str) -> ApiRequest {
        ApiRequest {
            method: "GET".into(),
            path: String::new(),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            accept: String::new(),
            content_type: String::new(),
            user_agent: String::new(),
            body: bytes::Bytes::new(),
            user: None,
            bearer: None,
            impersonation: Vec::new(),
            cause: protocol::Cause(1),
            ..ApiRequest::default()
        }
    }

    fn pod(statuses: Value) -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": statuses},
        })
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_kubernetes_words() {
        let running = json!({"name": "a", "state": {"running": {}}});
        let waiting = |reason: &str| json!({"name": "a", "state": {"waiting": {"reason": reason}}});
        let cases = [
            (
                "",
                running.clone(),
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
            ),
            ("container=c", running.clone(), "container c is not valid for pod p"),
            (
                "container=a&previous=true",
                running.clone(),
                "previous terminated container \"a\" in pod \"p\" not found",
            ),
            (
                "container=a",
                waiting("ContainerCreating"),
                "container \"a\" in pod \"p\" is waiting to start: ContainerCreating",
            ),
            (
                "container=a",
                waiting("ImagePullBackOff"),
                "container \"a\" in pod \"p\" is waiting to start: trying and failing to pull image",
            ),
            (
                "container=b",
                running.clone(),
                "container \"b\" in pod \"p\" is waiting to start: ContainerCreating",
            ),
            (
                "container=a&sinceSeconds=0",
                running.clone(),
                "PodLogOptions \"\" is invalid: sinceSeconds: Invalid value: 0: must be greater than 0",
            ),
        ];
        for (query, status, message) in cases {
            let refusal = log_request(&request(query), &pod(json!([status])), UnixMillis(0)).unwrap_err();
            assert_eq!(refusal.message, message, "{query}");
        }
    }

    #[test]
    fn options_reach_the_node() {
        let crashed = json!({"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}});
        for (query, since_ms) in [
            ("sinceSeconds=5", Some(5_000)),
            ("sinceTime=1970-01-01T00:00:07Z", Some(7_000)),
            ("x=y", None),
        ] {
            let request = request(&format!(
                "container=a&previous=true&tailLines=3&limitBytes=9&timestamps=true&{query}"
            ));
            let (node, log) = log_request(&request, &pod(json!([crashed])), UnixMillis(10_000)).unwrap();
            assert_eq!(
                (node.as_str(), log.container.as_str(), log.previous, log.follow),
                ("n1", "a", true, false)
            );
            assert_eq!(
                (log.tail_lines, log.limit_bytes, log.timestamps, log.since_ms),
                (Some(3), Some(9), true, since_ms),
                "{query}"
            );
        }
    }
}
