//! What is refused as soon as it is read.

use serde_json::json;

use crate::{COLLECTION, JSON, Scene, is_refused};

/// Kubernetes' limit.
const BODY_BYTES_MAX: usize = 3 << 20;

fn config_map(name: &str, value: &str) -> Vec<u8> {
    json!({"metadata": {"name": name}, "data": {"value": value}})
        .to_string()
        .into_bytes()
}

pub fn large_bodies(scene: &Scene) {
    let large = config_map("large", &"x".repeat(BODY_BYTES_MAX));
    for (method, path, content_type) in [
        ("POST", COLLECTION.to_owned(), "application/json"),
        ("PUT", format!("{COLLECTION}/bystander"), "application/json"),
        (
            "PATCH",
            format!("{COLLECTION}/bystander"),
            "application/merge-patch+json",
        ),
        (
            "PATCH",
            format!("{COLLECTION}/bystander?fieldManager=x"),
            "application/apply-patch+yaml",
        ),
        ("DELETE", format!("{COLLECTION}/bystander"), "application/json"),
    ] {
        let answer = scene.ask(method, &path, &[("Content-Type", content_type)], &large);
        is_refused(method, &answer, 413, "RequestEntityTooLarge");
    }
    // Without a length, in chunks that go on and on.
    let mut chunked = scene
        .endpoint
        .request("POST", COLLECTION, &[("Transfer-Encoding", "chunked")], b"");
    let text = String::from_utf8(chunked)
        .expect("a head is text")
        .replace("Content-Length: 0\r\n", "");
    chunked = text.into_bytes();
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    chunked.extend(chunk.repeat(64));
    is_refused(
        "chunks",
        &scene.raw(&chunked).expect("an answer"),
        413,
        "RequestEntityTooLarge",
    );
    // A length of terabytes is refused without a byte of it.
    let head = format!("POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000000\r\n\r\n");
    is_refused(
        "a length",
        &scene.raw(head.as_bytes()).expect("an answer"),
        413,
        "RequestEntityTooLarge",
    );
    // What is just small enough is taken.
    let answer = scene.ask(
        "POST",
        COLLECTION,
        JSON,
        &config_map("nearly-large", &"x".repeat(1 << 20)),
    );
    assert!(
        matches!(answer.head.code, 201 | 422),
        "{:.300}",
        String::from_utf8_lossy(&answer.body)
    );
    if answer.head.code == 201 {
        assert_eq!(
            scene
                .ask("DELETE", &format!("{COLLECTION}/nearly-large"), &[], b"")
                .head
                .code,
            200
        );
    }
}

pub fn nesting(scene: &Scene) {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let within = format!("{{\"metadata\":{{\"name\":\"deep\"}},\"data\":{deep}}}");
        for body in [&deep, &within] {
            is_refused(
                "JSON",
                &scene.ask("POST", COLLECTION, JSON, body.as_bytes()),
                400,
                "BadRequest",
            );
        }
        for content_type in [
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/json-patch+json",
        ] {
            let answer = scene.ask(
                "PATCH",
                &format!("{COLLECTION}/bystander"),
                &[("Content-Type", content_type)],
                deep.as_bytes(),
            );
            is_refused(content_type, &answer, 400, "BadRequest");
        }
    }
    let flow = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let block: String = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let bomb = (1..40).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let before = level - 1;
        format!("{text}a{level}: &a{level} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n")
    });
    for yaml in [flow, block, bomb] {
        let answer = scene.ask(
            "POST",
            COLLECTION,
            &[("Content-Type", "application/yaml")],
            yaml.as_bytes(),
        );
        is_refused("YAML", &answer, 400, "BadRequest");
        let path = format!("{COLLECTION}/applied?fieldManager=x");
        let answer = scene.ask(
            "PATCH",
            &path,
            &[("Content-Type", "application/apply-patch+yaml")],
            yaml.as_bytes(),
        );
        is_refused("apply", &answer, 400, "BadRequest");
    }
}

pub fn no_text(scene: &Scene) {
    for body in [
        b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".as_slice(),
        b"\xff\xff\xff\xff",
        b"{\"metadata\":{\"name\":\"\\ud800\"}}",
        b"\0\0\0\0",
        b"",
        b"nonsense",
        b"{\"metadata\":{\"name\":\"a\"}} trailing",
    ] {
        is_refused("a body", &scene.ask("POST", COLLECTION, JSON, body), 400, "BadRequest");
    }
    let yaml = [("Content-Type", "application/yaml")];
    is_refused(
        "YAML",
        &scene.ask("POST", COLLECTION, &yaml, b"metadata: {name: \xff}"),
        400,
        "BadRequest",
    );
}

pub fn content_types(scene: &Scene) {
    let object = config_map("typed", "x");
    for content_type in [
        "text/html",
        "application/xml",
        "application/cbor",
        "multipart/form-data; boundary=x",
        "x",
        "application/json-patch+json",
    ] {
        let answer = scene.ask("POST", COLLECTION, &[("Content-Type", content_type)], &object);
        is_refused(content_type, &answer, 415, "UnsupportedMediaType");
    }
    for content_type in ["application/json", "text/plain", "application/merge-patch", ""] {
        let answer = scene.ask(
            "PATCH",
            &format!("{COLLECTION}/bystander"),
            &[("Content-Type", content_type)],
            b"{}",
        );
        is_refused(content_type, &answer, 415, "UnsupportedMediaType");
    }
    for accept in [
        "text/html",
        "application/xml;q=0.9",
        "application/json;as=Nothing;v=v1;g=meta.k8s.io",
    ] {
        is_refused(
            accept,
            &scene.ask("GET", COLLECTION, &[("Accept", accept)], b""),
            406,
            "NotAcceptable",
        );
    }
}

pub fn protobuf(scene: &Scene) {
    let headers = [("Content-Type", "application/vnd.kubernetes.protobuf")];
    let length_of_everything = b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f".as_slice();
    let groups = [b"k8s\0".as_slice(), &[0x0b; 100_000]].concat();
    let nested = [b"k8s\0".as_slice(), &[0x12, 0xff, 0xff, 0x03].repeat(20_000)].concat();
    for body in [
        b"".as_slice(),
        b"k8s",
        b"k8s\0",
        b"k8t\0\x0a\0",
        b"\x0a\x02v1",
        length_of_everything,
        &groups,
        &nested,
    ] {
        is_refused(
            "protobuf",
            &scene.ask("POST", COLLECTION, &headers, body),
            400,
            "BadRequest",
        );
    }
}

pub fn labels_and_selectors(scene: &Scene) {
    // Many labels are allowed, as large as an object may be; they are stored, selected by, and deleted again.
    let labels: serde_json::Map<String, serde_json::Value> = (0..20_000)
        .map(|at| (format!("label-{at}"), json!(format!("value-{at}"))))
        .collect();
    let many = json!({"metadata": {"name": "labelled", "labels": labels}}).to_string();
    let answer = scene.ask("POST", COLLECTION, JSON, many.as_bytes());
    assert_eq!(answer.head.code, 201, "{:.300}", String::from_utf8_lossy(&answer.body));
    let selected = scene.ask(
        "GET",
        &format!("{COLLECTION}?labelSelector=label-19999%3Dvalue-19999"),
        &[],
        b"",
    );
    assert!(String::from_utf8_lossy(&selected.body).contains("\"name\":\"labelled\""));
    // A selector of thousands of terms is answered, over all those labels.
    let terms: Vec<String> = (0..1_500).map(|at| format!("label-{at}%3Dvalue-{at}")).collect();
    let answer = scene.ask(
        "GET",
        &format!("{COLLECTION}?labelSelector={}", terms.join("%2C")),
        &[],
        b"",
    );
    assert_eq!(answer.head.code, 200, "{:.300}", String::from_utf8_lossy(&answer.body));
    assert_eq!(
        scene
            .ask("DELETE", &format!("{COLLECTION}/labelled"), &[], b"")
            .head
            .code,
        200
    );
    // Annotations have a limit of their own.
    let annotated = json!({"metadata": {"name": "a", "annotations": {"a": "x".repeat(257 << 10)}}}).to_string();
    is_refused(
        "annotations",
        &scene.ask("POST", COLLECTION, JSON, annotated.as_bytes()),
        422,
        "Invalid",
    );
    for (labels, what) in [
        (json!({"x".repeat(10_000): ""}), "a key"),
        (json!({"a": "x".repeat(10_000)}), "a value"),
        (json!({"a b": "c"}), "a blank"),
        (json!({"": ""}), "an empty key"),
    ] {
        let object = json!({"metadata": {"name": "a", "labels": labels}}).to_string();
        is_refused(
            what,
            &scene.ask("POST", COLLECTION, JSON, object.as_bytes()),
            422,
            "Invalid",
        );
    }
    for selector in [
        "a%20b",
        "a%20in%20(",
        "(((((((((((((((((",
        "%3D%3D%3D",
        "a%3Db%2C%2Cc",
        "%00",
        "a%20in%20x",
    ] {
        let answer = scene.ask("GET", &format!("{COLLECTION}?labelSelector={selector}"), &[], b"");
        is_refused(selector, &answer, 400, "BadRequest");
    }
    for selector in ["x%3Dy", "metadata.name", "status.phase%3Da", "%3D%3D"] {
        let answer = scene.ask("GET", &format!("{COLLECTION}?fieldSelector={selector}"), &[], b"");
        is_refused(selector, &answer, 400, "BadRequest");
    }
    // A head that is larger than any server reads.
    let head = format!(
        "GET {COLLECTION}?labelSelector={} HTTP/1.1\r\nHost: x\r\n\r\n",
        "a".repeat(2 << 20)
    );
    if let Some(answer) = scene.raw(head.as_bytes()) {
        assert!(
            matches!(answer.head.code, 400 | 413 | 414 | 431),
            "{}",
            answer.head.code
        );
    }
}

pub fn paths(scene: &Scene) {
    for path in [
        "/api/v1/%zz",
        "/api/v1/namespaces/%",
        "/api/v1/namespaces/%F",
        "/api/v1/namespaces/%FF/pods",
        "/api/v1/%c3%28",
    ] {
        is_refused(path, &scene.ask("GET", path, &[], b""), 400, "BadRequest");
    }
    for path in [
        "/api/v1/namespaces/default/nothing",
        "/api/v1/namespaces/default/configmaps/a/b/c/d/e",
        "/api/v1/../../etc/passwd",
        "/api/v1/namespaces/%2e%2e/%2e%2e/configmaps/x/y",
        "//////",
        "/apis/%00/v1/things",
    ] {
        let answer = scene.ask("GET", path, &[], b"");
        assert!(matches!(answer.head.code, 200 | 404), "{path}: {}", answer.head.code);
        assert!(!String::from_utf8_lossy(&answer.body).contains("root:"), "{path}");
    }
    let long = format!("{COLLECTION}/{}", "a".repeat(60_000));
    assert_eq!(scene.ask("GET", &long, &[], b"").head.code, 404);
    for query in [
        "limit=x",
        "limit=-1",
        "limit=99999999999999999999",
        "timeoutSeconds=x&watch=1",
        "continue=%FF",
        "continue=AAAA",
    ] {
        let answer = scene.ask("GET", &format!("{COLLECTION}?{query}"), &[], b"");
        is_refused(query, &answer, 400, "BadRequest");
    }
    for method in ["TRACE", "CONNECT", "NONSENSE", "post"] {
        let answer = scene.ask(method, COLLECTION, &[], b"");
        is_refused(method, &answer, 405, "MethodNotAllowed");
    }
}

/// Bytes that are no request, or two in one. The server may close without a word, but must not take them for something else.
pub fn broken_http(scene: &Scene) {
    let created = |answer: Option<tests::https::Answer>| answer.is_some_and(|answer| answer.head.code < 400);
    let object = r#"{"metadata":{"name":"smuggled"}}"#;
    let many_headers: String = (0..5_000).map(|at| format!("X-{at}: y\r\n")).collect();
    for (what, text) in [
        ("garbage", "\0\x01\x02\x03 nonsense\r\n\r\n".to_owned()),
        ("a version", format!("GET {COLLECTION} HTTP/9.9\r\nHost: x\r\n\r\n")),
        ("no version", format!("GET {COLLECTION}\r\n\r\n")),
        (
            "a header without a colon",
            format!("GET {COLLECTION} HTTP/1.1\r\nHost x\r\n\r\n"),
        ),
        (
            "a header with a line break",
            format!("GET {COLLECTION} HTTP/1.1\r\nHost: x\r\nA\r\n: b\r\n\r\n"),
        ),
        (
            "many headers",
            format!("GET {COLLECTION} HTTP/1.1\r\nHost: x\r\n{many_headers}\r\n"),
        ),
        (
            "a negative length",
            format!("POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{object}"),
        ),
        (
            "two lengths",
            format!(
                "POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: {}\r\n\r\n{object}",
                object.len()
            ),
        ),
        (
            "a length and chunks",
            format!(
                "POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{object}\r\n0\r\n\r\n",
                object.len()
            ),
        ),
        (
            "a chunk's size",
            format!(
                "POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{object}"
            ),
        ),
        (
            "an encoding",
            format!("POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nonsense\r\n\r\n{object}"),
        ),
    ] {
        assert!(!created(scene.raw(text.as_bytes())), "{what}");
    }
    assert_eq!(
        scene.ask("GET", &format!("{COLLECTION}/smuggled"), &[], b"").head.code,
        404
    );
    // HTTP on the port of HTTPS, and TLS that breaks off.
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &[0xff; 4096],
    ] {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(scene.endpoint.address).expect("a connection");
        socket.write_all(bytes).expect("it is sent");
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(20)))
            .expect("a timeout");
        let mut rest = Vec::new();
        // An alert or nothing, and then the end; a reset is an end too.
        match socket.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.len() < 100, "{rest:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

/// Requests that are sent before answers are read come back in their order; one that is refused does not spoil the next.
pub fn pipelining(scene: &Scene) {
    scene.runtime.block_on(async {
        let mut connection = scene.endpoint.connect().await.expect("a connection");
        let paths = ["/bystander", "/none", "?limit=x", "?limit=1"];
        let expected = [200, 404, 400, 200];
        let mut bytes = Vec::new();
        for round in 0..200 {
            let path = format!("{COLLECTION}{}", paths[round % paths.len()]);
            bytes.extend(scene.endpoint.request("GET", &path, &[], b""));
        }
        connection.send(&bytes).await.expect("they are sent");
        for round in 0..200 {
            let answer = tokio::time::timeout(std::time::Duration::from_secs(20), connection.answer()).await;
            let answer = answer.expect("an answer in time").expect("an answer");
            assert_eq!(answer.head.code, expected[round % expected.len()], "request {round}");
        }
    });
}
