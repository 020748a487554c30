//! The unmodified helm 4 on a cluster of one node, with a chart of our own (`chart/`): install, upgrade, failed upgrades,
//! rollback, tests, history, list and uninstall; hooks of every phase, by weight and with deletion policies; server-side and
//! client-side apply; `lookup` and capabilities; a kind of the chart's own (`crds/`) and objects of it. What helm prints and what is in the cluster afterwards are both checked.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Cluster, Helm, Kubectl, wait_for};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/helm/chart");

const SOON: Duration = Duration::from_secs(30);

/// One namespace with helm and kubectl.
struct Stage<'a> {
    cluster: &'a Cluster,
    kubectl: Kubectl,
    helm: Helm,
    namespace: &'static str,
}

impl<'a> Stage<'a> {
    fn new(cluster: &'a Cluster, namespace: &'static str) -> Stage<'a> {
        let kubectl = cluster.kubectl(0);
        kubectl.run(&format!("create namespace {namespace}"));
        Stage {
            cluster,
            kubectl,
            helm: Helm::new(&cluster.kubeconfig(0), cluster.directory(), namespace),
            namespace,
        }
    }

    fn get(&self, what: &str) -> Value {
        self.kubectl.get(&format!("{what} -n {}", self.namespace))
    }

    /// The names of what there is of some kinds, `kind/name` each.
    fn names(&self, kinds: &str) -> Vec<String> {
        let printed = self.kubectl.run(&format!("get {kinds} -n {} -o name", self.namespace));
        printed.lines().map(str::to_owned).collect()
    }

    /// What a hook's pod has printed.
    fn hook(&self, name: &str) -> String {
        self.kubectl.run(&format!("logs {name} -n {}", self.namespace))
    }

    /// Chart, revision and status of the only release that is listed.
    fn listed(&self, arguments: &str) -> (String, String) {
        let list = self.helm.json(&format!("list {arguments}"));
        let release = list
            .as_array()
            .and_then(|list| list.first())
            .cloned()
            .unwrap_or_default();
        assert_eq!(release["chart"], "shop-1.2.3", "{list}");
        let text = |name: &str| release[name].as_str().unwrap_or_default().to_owned();
        (text("revision"), text("status"))
    }
}

fn pair(revision: &str, status: &str) -> (String, String) {
    (revision.to_owned(), status.to_owned())
}

fn install(s: &Stage) {
    // A dry run installs no kinds, so it can show no objects of them.
    s.helm.refused(
        &format!("install shop {CHART} --dry-run=server"),
        "no matches for kind \"Coupon\" in version \"shop.example.com/v1\"",
    );
    let dry = s
        .helm
        .run(&format!("install shop {CHART} --set percent=0 --dry-run=server"));
    assert!(dry.contains("sees: deployments"), "{dry}");
    assert_eq!(
        s.names("deployments,secrets,pods"),
        Vec::<String>::new(),
        "a dry run leaves nothing"
    );
    let printed = s.helm.run(&format!("install shop {CHART} --wait --timeout 60s"));
    assert!(
        printed.contains("STATUS: deployed") && printed.contains("shop is red."),
        "{printed}"
    );
    let deployment = s.get("deployment shop");
    assert_eq!(
        deployment["status"]["readyReplicas"], 1,
        "--wait waits for what is Ready"
    );
    assert_eq!(s.listed(""), pair("1", "deployed"));
    assert_eq!(s.get("configmap shop-settings")["data"]["colour"], "red");
    assert_eq!(
        s.get("coupon shop")["spec"],
        json!({"percent": 10, "goods": ["everything"]}),
        "the chart's kinds are installed before its objects"
    );
    assert_eq!(s.hook("shop-pre-install"), "pre-install of revision 1\n");
    assert_eq!(s.hook("shop-post-install"), "post-install of revision 1\n");
    assert!(
        !s.names("configmaps").contains(&"configmap/shop-first".to_owned()),
        "hook-succeeded"
    );
    s.helm.refused(
        &format!("install shop {CHART}"),
        "cannot reuse a name that is still in use",
    );
    let status = s.helm.json("status shop");
    assert_eq!(status["info"]["status"], "deployed");
    assert!(s.helm.run("get manifest shop").contains("kind: PodDisruptionBudget"));
    assert!(s.helm.run("get hooks shop").contains("pre-delete of revision 1"));
    assert!(s.helm.run("get notes shop").contains("shop is red."));
    s.helm.run("test shop --timeout 60s");
}

fn upgrade(s: &Stage) {
    let word = s.get("secret shop-key")["data"]["word"].clone();
    s.helm.run(&format!(
        "upgrade shop {CHART} --set replicas=2,colour=blue --wait --timeout 60s"
    ));
    assert_eq!(s.listed(""), pair("2", "deployed"));
    assert_eq!(s.get("deployment shop")["status"]["readyReplicas"], 2);
    assert_eq!(s.get("configmap shop-settings")["data"]["colour"], "blue");
    assert_eq!(
        s.get("secret shop-key")["data"]["word"],
        word,
        "lookup finds what is there"
    );
    assert_eq!(s.hook("shop-pre-upgrade"), "pre-upgrade of revision 2\n");
    assert_eq!(s.hook("shop-post-upgrade"), "post-upgrade of revision 2\n");
    assert_eq!(s.helm.json("get values shop"), json!({"colour": "blue", "replicas": 2}));
    s.helm.run("test shop --timeout 60s");

    // A hook that fails stops the upgrade before anything is changed.
    s.helm.refused(
        &format!("upgrade shop {CHART} --reuse-values --set colour=green,upgradeExit=3 --timeout 60s"),
        "pre-upgrade hooks failed",
    );
    assert_eq!(s.listed("--failed"), pair("3", "failed"));
    assert_eq!(s.get("configmap shop-settings")["data"]["colour"], "blue");

    // One whose pods never become Ready is taken back.
    s.helm.refused(
        &format!("upgrade shop {CHART} --reuse-values --set colour=grey,upgradeExit=0,image=actorium.local/none:1 --no-hooks --rollback-on-failure --timeout 8s"),
        "release shop failed, and has been rolled back due to rollback-on-failure being set",
    );
    assert_eq!(s.listed(""), pair("5", "deployed"));
    assert_eq!(s.get("configmap shop-settings")["data"]["colour"], "blue");
}

fn rollback(s: &Stage) {
    s.helm.run("rollback shop 1 --wait --timeout 60s");
    assert_eq!(s.listed(""), pair("6", "deployed"));
    assert_eq!(s.get("configmap shop-settings")["data"]["colour"], "red");
    assert_eq!(s.get("deployment shop")["spec"]["replicas"], 1);
    assert_eq!(s.hook("shop-pre-rollback"), "pre-rollback of revision 1\n");
    let history = s.helm.json("history shop");
    let states: Vec<&str> = history
        .as_array()
        .map(|history| history.iter().filter_map(|entry| entry["status"].as_str()).collect())
        .unwrap_or_default();
    assert_eq!(
        states,
        ["superseded", "superseded", "failed", "failed", "superseded", "deployed"],
        "{history}"
    );
    s.helm.refused("rollback shop 99", "release has no 99 version");
}

/// Fields that others have changed: an upgrade says whose they are, or takes them.
fn ownership(s: &Stage) {
    let namespace = s.namespace;
    s.kubectl.run(&format!(
        "patch configmap shop-settings -n {namespace} --type=merge --field-manager=someone -p {{\"data\":{{\"colour\":\"mine\"}}}}"
    ));
    s.helm.refused(
        &format!("upgrade shop {CHART} --set colour=pink --no-hooks"),
        "conflict with \"someone\"",
    );
    s.helm.run(&format!(
        "upgrade shop {CHART} --set colour=pink --no-hooks --force-conflicts --wait --timeout 60s"
    ));
    assert_eq!(s.get("configmap shop-settings")["data"]["colour"], "pink");
    // What is in the cluster and belongs to no release is not taken over unless helm is told to.
    s.kubectl
        .run(&format!("create configmap other-settings -n {namespace}"));
    s.helm.refused(
        &format!("install other {CHART} --no-hooks"),
        "exists and cannot be imported into the current release",
    );
    s.helm.run(&format!(
        "install other {CHART} --no-hooks --take-ownership --wait --timeout 60s"
    ));
    assert_eq!(s.helm.json("list").as_array().map(Vec::len), Some(2));
    assert_eq!(s.helm.json("list --filter other").as_array().map(Vec::len), Some(1));
    s.helm.run("uninstall other --no-hooks --wait --timeout 60s");
}

/// helm's way before server-side apply: three-way merges, patches that the client computes.
fn client_side(s: &Stage) {
    s.helm.run(&format!(
        "upgrade --install old {CHART} --server-side=false --wait --timeout 60s"
    ));
    s.helm.run(&format!(
        "upgrade --install old {CHART} --server-side=false --set colour=blue,replicas=2 --wait --timeout 60s"
    ));
    assert_eq!(s.get("deployment old")["status"]["readyReplicas"], 2);
    assert_eq!(s.get("configmap old-settings")["data"]["colour"], "blue");
    s.helm.run("rollback old 1 --server-side=false --wait --timeout 60s");
    assert_eq!(s.get("configmap old-settings")["data"]["colour"], "red");
    s.helm.run("uninstall old --wait --timeout 60s");
}

/// A kind of the chart's own, and a release's object of it.
fn custom(s: &Stage) {
    let percent = || s.get("coupon club")["spec"]["percent"].clone();
    let dry = s.helm.run(&format!("install club {CHART} --no-hooks --dry-run=server"));
    assert!(dry.contains("kind: Coupon"), "{dry}");
    s.helm
        .run(&format!("install club {CHART} --no-hooks --wait --timeout 60s"));
    assert_eq!(percent(), 10);
    // What its keeper writes is not the release's: it stays over an upgrade.
    s.kubectl.run(&format!(
        "patch coupon club -n {} --subresource=status --type=merge -p {{\"status\":{{\"redeemed\":7}}}}",
        s.namespace
    ));
    s.helm.run(&format!(
        "upgrade club {CHART} --no-hooks --set percent=20 --wait --timeout 60s"
    ));
    assert_eq!(percent(), 20);
    assert_eq!(s.get("coupon club")["status"]["redeemed"], 7);
    s.helm.refused(
        &format!("upgrade club {CHART} --no-hooks --set percent=99"),
        "spec.percent in body should be less than or equal to 90",
    );
    assert_eq!(percent(), 20);
    s.helm.run("rollback club 1 --no-hooks --wait --timeout 60s");
    assert_eq!(percent(), 10);
    s.helm.run(&format!(
        "upgrade club {CHART} --no-hooks --set percent=0 --wait --timeout 60s"
    ));
    assert_eq!(s.names("coupons"), ["coupon.shop.example.com/shop"]);
    s.helm.run("uninstall club --no-hooks --wait --timeout 60s");
}

/// helm never removes kinds: a person does, and the chart brings them again.
fn kinds_again(s: &Stage) {
    s.kubectl.run("delete crd coupons.shop.example.com --timeout=30s");
    s.helm.refused(
        &format!("install late {CHART} --no-hooks --skip-crds"),
        "no matches for kind \"Coupon\" in version \"shop.example.com/v1\"",
    );
    s.helm
        .run(&format!("install late {CHART} --no-hooks --wait --timeout 60s"));
    assert_eq!(s.get("coupon late")["spec"]["percent"], 10);
    s.helm.run("uninstall late --no-hooks --wait --timeout 60s");
    assert_eq!(s.names("coupons"), Vec::<String>::new());
    let printed = s.kubectl.run("get crd coupons.shop.example.com -o name");
    assert!(printed.contains("coupons.shop.example.com"), "{printed}");
}

fn uninstall(s: &Stage) {
    s.helm.run("uninstall shop --keep-history --wait --timeout 60s");
    assert_eq!(s.hook("shop-pre-delete"), "pre-delete of revision 8\n");
    assert_eq!(s.listed("--uninstalled"), pair("8", "uninstalled"));
    let kinds = "deployments,replicasets,services,secrets,poddisruptionbudgets,roles";
    wait_for("what the release had is gone", SOON, || {
        let left = s.names(kinds);
        let of_shop: Vec<_> = left.iter().filter(|name| !name.contains("sh.helm.release")).collect();
        if of_shop.is_empty() {
            Ok(())
        } else {
            Err(format!("{of_shop:?}"))
        }
    });
    s.helm.run("rollback shop 8 --wait --timeout 60s");
    assert_eq!(s.listed(""), pair("9", "deployed"));
    let printed = s.helm.run("uninstall shop --wait --timeout 60s");
    assert!(printed.contains("release \"shop\" uninstalled"), "{printed}");
    s.helm.refused("status shop", "release: not found");
    assert_eq!(s.helm.json("list --all-namespaces"), json!([]));
    assert_eq!(s.names("secrets"), Vec::<String>::new(), "no release is left");
}

#[test]
fn the_unmodified_helm_installs_upgrades_and_removes_a_chart() {
    let cluster = Cluster::start(21, 1);
    cluster.import_images(0);
    let stage = Stage::new(&cluster, "shopping");
    // Each step builds on the one before.
    let steps: &[(&str, fn(&Stage))] = &[
        ("install", install),
        ("upgrade", upgrade),
        ("rollback", rollback),
        ("ownership", ownership),
        ("client side", client_side),
        ("custom", custom),
        ("uninstall", uninstall),
        ("kinds again", kinds_again),
    ];
    for (name, step) in steps {
        let begun = std::time::Instant::now();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&stage)));
        println!("measured: helm {name}: {} ms", begun.elapsed().as_millis());
        if let Err(panic) = done {
            println!("{name} failed; the cluster had\n{}", stage.cluster.logs());
            std::panic::resume_unwind(panic);
        }
    }
}
