//! The proxy subresource: requests go through the API to pods, Services and nodes, from a node on which the pod does not run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::json;
use tests::{Cluster, Kubectl, wait_for};

use crate::SOON;

/// Serves files and says what it was asked; on another port it agrees to any upgrade and sends back what it gets.
const SERVE: &str = r#"
mkdir -p /www/cgi-bin && cd /www && echo hello >index.html && head -c 3000000 /dev/zero >big
printf '#!/bin/sh\necho Content-Type: text/plain\necho\necho "$REQUEST_METHOD $QUERY_STRING auth=$HTTP_AUTHORIZATION for=$HTTP_X_FORWARDED_FOR"\ncat\n' >cgi-bin/echo
printf '#!/bin/sh\necho Status: 302 Found\necho Location: /index.html\necho\n' >cgi-bin/moved
chmod +x cgi-bin/echo cgi-bin/moved
printf '#!/bin/sh\nwhile read -r line; do line=${line%%?}; test -z "$line" && break; done\nprintf "HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n"\nexec cat\n' >/switch
chmod +x /switch
(while true; do nc -l -p 9000 -e /switch; done) &
exec httpd -f -p 8080 -h /www
"#;

fn start(cluster: &Cluster, client: &Kubectl) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "nodeName": cluster.nodes[1].name, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "actorium.local/busybox:1", "imagePullPolicy": "Never",
                "command": ["sh", "-c", SERVE], "ports": [{"containerPort": 8080}],
            }],
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "switch", "port": 90, "targetPort": 9000}]},
    });
    let empty = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "nobody"},
        "spec": {"selector": {"app": "nobody"}, "ports": [{"port": 80}]},
    });
    for object in [pod, service, empty] {
        client.apply(&object.to_string());
    }
}

fn raw(client: &Kubectl, path: &str) -> Result<String, String> {
    let output = client.output(&format!("get --raw {path}"));
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// `kubectl proxy`, which ends with this value.
struct LocalProxy {
    process: Child,
    address: String,
}

impl LocalProxy {
    fn start(client: &Kubectl) -> LocalProxy {
        let mut command = client.command();
        command
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().expect("kubectl runs");
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        output.read_line(&mut line).expect("kubectl says where it serves");
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        LocalProxy { process, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("kubectl proxy listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        stream
    }

    /// Sends a request and returns the whole answer.
    fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it is answered");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for LocalProxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// GET, POST, redirects, big answers and WebSockets, by `get --raw` and `kubectl proxy`.
pub fn requests_go_through(cluster: &Cluster, client: &Kubectl) {
    start(cluster, client);
    let pods = "/api/v1/namespaces/default/pods";
    let services = "/api/v1/namespaces/default/services";
    wait_for("the Service answers through the proxy", SOON, || {
        raw(client, &format!("{services}/web:80/proxy/"))
            .and_then(|text| if text == "hello\n" { Ok(()) } else { Err(text) })
    });
    for path in [
        format!("{pods}/web/proxy/index.html"),
        format!("{pods}/web:8080/proxy/index.html"),
        format!("{services}/web:http/proxy/index.html"),
        format!("{services}/http:web:80/proxy/index.html"),
    ] {
        assert_eq!(raw(client, &path).as_deref(), Ok("hello\n"), "{path}");
    }
    let big = raw(client, &format!("{services}/web:80/proxy/big")).expect("it is served");
    assert_eq!(big.len(), 3_000_000);

    let local = LocalProxy::start(client);
    let answer = local.exchange(&format!(
        "POST {services}/web:80/proxy/cgi-bin/echo?a=b%20c HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer none\r\n\
         Content-Length: 5\r\n\r\nhello"
    ));
    assert!(
        answer.starts_with("HTTP/1.1 200")
            && answer.contains("POST a=b%20c auth= for=")
            && answer.contains("\nhello\r\n"),
        "{answer}"
    );
    let answer = local.exchange(&format!(
        "GET {services}/web:80/proxy/cgi-bin/moved HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    assert!(
        answer.contains(&format!("ocation: {services}/web:80/proxy/index.html")),
        "{answer}"
    );
    let answer = local.exchange(&format!(
        "GET {services}/web:80/proxy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 301"), "{answer}");
    echoes(&local, &format!("{services}/web:switch/proxy/ws"));
}

/// After the upgrade, bytes come back as they were sent.
fn echoes(local: &LocalProxy, path: &str) {
    let mut stream = local.connect();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("it is answered") > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for text in ["first\n", "second\n"] {
        stream.write_all(text.as_bytes()).expect("it is sent");
        let mut line = String::new();
        reader.read_line(&mut line).expect("it comes back");
        assert_eq!(line, text);
    }
}

/// What cannot be reached, and what may not.
pub fn refusals_are_kubernetes_own(cluster: &Cluster, client: &Kubectl) {
    let services = "/api/v1/namespaces/default/services";
    let cases = [
        (
            format!("{services}/nobody:80/proxy/"),
            "no endpoints available for service \"nobody\"",
        ),
        (
            format!("{services}/web:81/proxy/"),
            "no service port 81 found for service \"web\"",
        ),
        (format!("{services}/absent/proxy/"), "services \"absent\" not found"),
        (
            "/api/v1/namespaces/default/pods/web:7/proxy/".to_owned(),
            "error trying to reach service: dial tcp",
        ),
    ];
    for (path, message) in cases {
        let error = raw(client, &path).expect_err(&path);
        assert!(error.contains(message), "{path}: {error}");
    }
    let error = client.refused(&format!("get --raw {services}/web:80/proxy/ --as bob"));
    assert!(error.contains("cannot get resource \"services/proxy\""), "{error}");
    // The node's own API is what it serves, and is on a port like any other.
    for port in ["", "https:"] {
        let suffix = if port.is_empty() { "" } else { ":6443" };
        let node = format!("/api/v1/nodes/{port}{}{suffix}/proxy/version", cluster.nodes[1].name);
        let version = raw(client, &node).expect("the node's port is reached");
        assert!(version.contains("gitVersion"), "{version}");
    }
}
