//! Every output format of `get`, watches in all of them, `explain` and discovery in their variants, and the ways of apply that few
//! people use.

use super::*;

pub fn formats(s: &Session) {
    s.feed("create -f -", &config_map("a", "1"));
    s.feed("create -f -", &config_map("b", "2"));
    let file = |name: &str, text: &str| {
        let path = s.cluster.directory().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let names = file("names.tpl", "{{range .items}}{{.metadata.name}} {{end}}");
    let keys = file("keys.jsonpath", "{.items[*].data.key}");
    let columns = file("columns", "NAME          KEY\nmetadata.name data.key");
    let own = "get configmaps -l '!gone' --field-selector=metadata.name!=kube-root-ca.crt";
    for (format, expected) in [
        (format!("go-template-file={names}"), "a b "),
        (format!("templatefile={names}"), "a b "),
        ("'template={{len .items}}'".to_owned(), "2"),
        (format!("jsonpath-file={keys}"), "1 2"),
        (
            "'jsonpath={range .items[*]}{.metadata.name}={.data.key};{end}'".to_owned(),
            "a=1;b=2;",
        ),
    ] {
        assert_eq!(s.run(&format!("{own} -o {format}")), expected, "{format}");
    }
    let rows = s.run(&format!("{own} -o custom-columns-file={columns}"));
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["NAME", "KEY"], ["a", "1"], ["b", "2"]]);
    let as_json: Value =
        serde_json::from_str(&s.run(&format!("{own} -o jsonpath-as-json={{.items[*].data.key}}"))).expect("JSON");
    assert_eq!(as_json, json!(["1", "2"]));
    let kyaml = s.run("get configmap a -o kyaml");
    assert!(
        kyaml.contains("kind: \"ConfigMap\",") && kyaml.contains("key: \"1\","),
        "{kyaml}"
    );
    let list = s.json("configmaps,secrets");
    assert_eq!(
        (&list["kind"], list["items"].as_array().map(Vec::len)),
        (&json!("List"), Some(3))
    );
    s.says("get configmap a -o wide", "DATA");
    s.says(
        "get configmaps,serviceaccounts --show-kind --no-headers",
        "serviceaccount/default",
    );
    s.says("get configmap a -L none", "NONE");
    s.says("get configmap a none --ignore-not-found -o name", "configmap/a");
    let path = format!("/api/v1/namespaces/{}/configmaps/a", s.namespace);
    let raw: Value = serde_json::from_str(&s.run(&format!("get --raw {path}"))).expect("JSON");
    assert_eq!(raw["data"]["key"], "1");

    let sorted = |by: &str| s.run(&format!("{own} --sort-by={by} -o name"));
    assert_eq!(sorted(".metadata.name"), "configmap/a\nconfigmap/b\n");
    s.run("annotate configmap a order=2");
    s.run("annotate configmap b order=1");
    assert_eq!(sorted("{.metadata.annotations.order}"), "configmap/b\nconfigmap/a\n");
    assert_eq!(sorted(".metadata.creationTimestamp").lines().count(), 2);
    s.says("annotate configmap a --list", "order=2");
    s.says("label configmap a --list", "");
    s.says("label configmaps -l '!tier' tier=x", "configmap/b labeled");
    s.says("annotate configmaps -l tier=x note-", "annotated");
}

pub fn watches(s: &Session) {
    let watches = [
        (
            "get configmaps --watch -o json --output-watch-events",
            vec!["\"ADDED\"", "\"name\":\"new\""],
        ),
        (
            "get configmaps --watch -o 'jsonpath={.metadata.name} {.data.key}{\"\\n\"}'",
            vec!["new 1"],
        ),
        (
            "get configmaps --watch -o custom-columns=N:.metadata.name,K:.data.key",
            vec!["new", "1"],
        ),
        (
            "get configmaps --watch --field-selector=metadata.name=new --show-labels",
            vec!["new", "<none>"],
        ),
    ];
    let following: Vec<_> = watches.iter().map(|(line, parts)| (s.follow(line), parts)).collect();
    let only = s.follow("get configmaps --watch-only -o name");
    // It waits for what is not there, and is told when it comes.
    let created = s.follow("wait --for=create configmap/new --timeout=30s");
    let value = s.follow("wait --for=jsonpath={.data.key}=2 configmap/kube-root-ca.crt --timeout=30s");
    s.feed("create -f -", &config_map("new", "1"));
    for (watch, parts) in &following {
        watch.expect(parts, SOON);
    }
    // What happened before it began is not shown: it is changed until a change is seen.
    let mut change = 0;
    wait_for("a change is seen", SOON, || {
        change += 1;
        s.run(&format!("annotate configmap new change={change} --overwrite"));
        let line = only.next(Instant::now() + Duration::from_millis(200));
        if line.as_deref() == Some("configmap/new") {
            Ok(())
        } else {
            Err(format!("{line:?}"))
        }
    });
    created.expect(&["configmap/new condition met"], SOON);
    s.run("patch configmap kube-root-ca.crt --type=merge -p '{\"data\":{\"key\":\"2\"}}'");
    value.expect(&["condition met"], SOON);
}

pub fn explanations(s: &Session) {
    for (line, part) in [
        ("explain pods", "Pod is a collection of containers"),
        ("explain pod.spec.containers.livenessProbe.httpGet.port", "IntOrString"),
        (
            "explain deployments --api-version=apps/v1 --recursive",
            "progressDeadlineSeconds",
        ),
        ("explain deploy.spec.replicas --output=plaintext-openapiv2", "replicas"),
        (
            "explain hpa.spec --api-version=autoscaling/v1",
            "targetCPUUtilizationPercentage",
        ),
        ("explain networkpolicies.spec.ingress.from", "namespaceSelector"),
        ("explain crd.spec.versions.schema", "openAPIV3Schema"),
        ("explain validatingadmissionpolicies.spec.validations", "expression"),
        (
            "api-resources -o wide --api-group=apps",
            "create,delete,deletecollection,get,list,patch,update,watch",
        ),
        ("api-resources --sort-by=kind --namespaced=true -o name", "pods"),
        ("api-resources --categories=all -o name", "deployments.apps"),
        (
            "api-resources --verbs=create --api-group=authorization.k8s.io -o name",
            "subjectaccessreviews.authorization.k8s.io",
        ),
        ("api-versions", "rbac.authorization.k8s.io/v1"),
    ] {
        s.says(line, part);
    }
    s.refused("explain pods --api-version=nothing/v1", "", "couldn't find resource");
}

/// Apply with pruning, from a kustomization, and with its annotation changed.
pub fn applying(s: &Session) {
    let both = format!("{}---\n{}", labelled("a"), labelled("b"));
    s.feed(
        "apply -f - -l app=pruned --prune --prune-allowlist=core/v1/ConfigMap",
        &both,
    );
    let printed = s.feed(
        "apply -f - -l app=pruned --prune --prune-allowlist=core/v1/ConfigMap",
        &labelled("a"),
    );
    assert!(printed.contains("configmap/b pruned"), "{printed}");
    s.refused("get configmap b", "", "configmaps \"b\" not found");

    let directory = s.cluster.directory().join("kustomization");
    std::fs::create_dir_all(&directory).expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).expect("a file");
    write("map.yaml", &config_map("base", "1"));
    write(
        "kustomization.yaml",
        "resources: [map.yaml]\nnamePrefix: my-\ncommonAnnotations: {from: kustomize}\nconfigMapGenerator:\n- name: made\n  literals: [a=b]\n",
    );
    let here = directory.display();
    s.says(&format!("apply -k {here}"), "configmap/my-base created");
    assert_eq!(
        s.value("configmap my-base", "{.metadata.annotations.from}"),
        "kustomize"
    );
    let again = s.says(&format!("diff -k {here}"), "");
    assert_eq!(again, "", "nothing differs");
    s.says(&format!("delete -k {here}"), "configmap \"my-base\" deleted");

    s.says("create configmap plain --from-literal=key=1", "created");
    s.refused(
        "apply set-last-applied -f -",
        &config_map("plain", "1"),
        "--create-annotation",
    );
    s.feed(
        "apply set-last-applied --create-annotation -f -",
        &config_map("plain", "1"),
    );
    s.says("apply view-last-applied configmap/plain -o json", "\"key\": \"1\"");
    // What was set only in the annotation is no field of the object: applying adds it.
    assert!(s.feed("apply -f -", &config_map("plain", "1")).contains("configured"));

    let printed = s.feed("apply --server-side --dry-run=server -f -", &config_map("dry", "1"));
    assert!(
        printed.contains("configmap/dry serverside-applied (server dry run)"),
        "{printed}"
    );
    let differs = s.output("diff --server-side -f -", &config_map("plain", "2"));
    assert_eq!(differs.status.code(), Some(1), "{}", text(&differs.stderr));
    s.refused(
        "apply --server-side --validate=strict -f -",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n",
        "unknown field \"datum\"",
    );
    s.says(
        "patch configmap plain --dry-run=server --type=merge -p '{\"data\":{\"key\":\"9\"}}' -o jsonpath={.data.key}",
        "9",
    );
    assert_eq!(s.value("configmap plain", "{.data.key}"), "1");
}

fn labelled(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: pruned}}}}\n")
}
