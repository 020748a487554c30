//! `auth`, impersonation and accounts; and the verbs that make objects of kinds with commands of their own.

use super::*;

pub fn rights(s: &Session) {
    let namespace = s.namespace.clone();
    assert_eq!(s.run("auth can-i create pods"), "yes\n");
    s.says("auth whoami", "system:masters");
    let account = format!("--as=system:serviceaccount:{namespace}:reader");
    s.run("create serviceaccount reader");
    let no = s.output(&format!("auth can-i list configmaps {account}"), "");
    assert_eq!((text(&no.stdout).trim(), no.status.code()), ("no", Some(1)));
    s.refused(
        &format!("get configmaps {account}"),
        "",
        &format!("configmaps is forbidden: User \"system:serviceaccount:{namespace}:reader\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"{namespace}\""),
    );
    s.says(
        "create role reading --verb=get,list,watch --resource=configmaps,deployments.apps",
        "created",
    );
    s.says(
        &format!("create rolebinding reading --role=reading --serviceaccount={namespace}:reader"),
        "created",
    );
    wait_for("the binding is heard of", SOON, || {
        let answer = s.output(&format!("auth can-i list configmaps {account}"), "");
        if answer.status.success() {
            Ok(())
        } else {
            Err(text(&answer.stdout))
        }
    });
    s.says(&format!("get configmaps {account}"), "kube-root-ca.crt");
    s.says(&format!("auth can-i --list {account}"), "configmaps");
    let listed = s.run(&format!("auth can-i --list {account} --no-headers"));
    assert!(
        listed
            .lines()
            .any(|line| line.starts_with("deployments.apps") && line.contains("[get list watch]")),
        "{listed}"
    );
    for (question, answer) in [
        ("delete configmaps", "no"),
        ("list deployments.apps", "yes"),
        ("list deployments.apps -A", "no"),
        ("get /healthz", "yes"),
        ("get /metrics", "no"),
        ("get pods --subresource=log", "no"),
        ("'*' '*'", "no"),
    ] {
        let output = s.output(&format!("auth can-i {question} {account}"), "");
        assert_eq!(
            text(&output.stdout).trim(),
            answer,
            "{question}: {}",
            text(&output.stderr)
        );
    }
    // Nobody gives away what it does not have.
    s.says(
        "create role granting --verb=create,get --resource=roles.rbac.authorization.k8s.io",
        "created",
    );
    s.run(&format!(
        "create rolebinding granting --role=granting --serviceaccount={namespace}:reader"
    ));
    wait_for("the binding is heard of", SOON, || {
        let answer = s.output(&format!("auth can-i create roles {account}"), "");
        if answer.status.success() {
            Ok(())
        } else {
            Err(text(&answer.stdout))
        }
    });
    s.refused(
        &format!("create role more --verb=delete --resource=secrets {account}"),
        "",
        "attempting to grant RBAC permissions not currently held",
    );
    s.feed(
        "auth reconcile -f -",
        &format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: reading, namespace: {namespace}}}\nrules:\n- {{apiGroups: [''], resources: [secrets], verbs: [get]}}\n"),
    );
    assert_eq!(
        s.json("role reading")["rules"].as_array().map(Vec::len),
        Some(3),
        "a rule is added"
    );
    tokens(s, &namespace);
    s.says(
        "auth whoami --as=jane --as-group=dev -o jsonpath={.status.userInfo.groups}",
        "dev",
    );
}

/// A token of an account is its right, until the account goes.
fn tokens(s: &Session, namespace: &str) {
    let token = s.run("create token reader --duration=10m").trim().to_owned();
    // The kubeconfig's certificate would win over a token: a configuration without one.
    let server = s.run("config view --raw -o jsonpath={.clusters[0].cluster.server}");
    let ca = s.run("config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority-data}");
    let path = s.cluster.directory().join("token.kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server.trim(), "certificate-authority-data": ca.trim()}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
    });
    std::fs::write(&path, config.to_string()).expect("a file");
    let account = Session {
        cluster: s.cluster,
        kubectl: Kubectl::new(&path),
        namespace: namespace.to_owned(),
    };
    account.says("auth whoami", &format!("system:serviceaccount:{namespace}:reader"));
    account.says("get configmaps", "kube-root-ca.crt");
    account.refused("get pods", "", "pods is forbidden");
    s.run("delete serviceaccount reader");
    account.refused("get configmaps", "", "You must be logged in to the server");
}

/// One object of each kind that `create` has a command for, and what else makes objects.
pub fn makers(s: &Session) {
    for (line, printed) in [
        (
            "create namespace made-by-kubectl --dry-run=server",
            "created (server dry run)",
        ),
        (
            "create clusterrole reads-nodes --verb=get --resource=nodes --dry-run=server",
            "created (server dry run)",
        ),
        (
            "create clusterrolebinding b --clusterrole=view --user=jane --dry-run=server",
            "created (server dry run)",
        ),
        (
            "create cronjob c --image=i --schedule='*/5 * * * *'",
            "cronjob.batch/c created",
        ),
        (
            "create ingress i --rule=host.example/path=web:80",
            "ingress.networking.k8s.io/i created",
        ),
        (
            "create job j --image=actorium.local/busybox:1 --dry-run=server -- true",
            "created (server dry run)",
        ),
        (
            "create poddisruptionbudget p --selector=app=none --min-available=1",
            "poddisruptionbudget.policy/p created",
        ),
        (
            "create priorityclass high-by-kubectl --value=1000 --dry-run=server",
            "created (server dry run)",
        ),
        ("create quota q --hard=pods=50,configmaps=50", "resourcequota/q created"),
        (
            "create secret docker-registry d --docker-server=s --docker-username=u --docker-password=p",
            "secret/d created",
        ),
        ("create service clusterip svc --tcp=80:8080", "service/svc created"),
        (
            "create service externalname ext --external-name=host.example",
            "service/ext created",
        ),
        ("create service nodeport np --tcp=80:8080", "service/np created"),
        ("create service loadbalancer lb --tcp=80:8080", "service/lb created"),
        (
            "create deployment none --image=i --replicas=0",
            "deployment.apps/none created",
        ),
        ("autoscale deployment none --min=1 --max=3 --cpu=80%", "autoscaled"),
        (
            "set resources deployment none --limits=cpu=200m,memory=64Mi",
            "resource requirements updated",
        ),
        ("set serviceaccount deployment none default", "serviceaccount updated"),
        ("set selector service svc app=other", "selector updated"),
        ("expose service svc --name=again --port=81", "service/again exposed"),
        ("scale deployment none --replicas=0 --resource-version=''", "scaled"),
    ] {
        s.says(line, printed);
    }
    s.says("get quota q", "configmaps: ");
    s.says("describe ingress i", "host.example");
    s.says("get cronjob c", "*/5 * * * *");
    s.says("get hpa none", "Deployment/none");
    s.says("describe quota q", "pods");
    s.refused(
        "create cronjob bad --image=i --schedule=never",
        "",
        "Invalid value: \"never\"",
    );
    s.refused(
        "create quota bad --hard=pods=-1",
        "",
        "must be greater than or equal to 0",
    );
    s.says("delete ingress,cronjob,pdb,hpa,deployment,quota --all", "deleted");
}
