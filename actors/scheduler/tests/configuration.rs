//! Holds the reading of a KubeSchedulerConfiguration to Kubernetes' meaning: profiles, plugins at all or single extension
//! points, weights, arguments; and to refusing what it does not understand.

use k8s_openapi::api::core::v1 as core;
use scheduler::cluster::{ClassId, Cluster};
use scheduler::diagnosis::Reason;
use scheduler::framework::{Compiled, Context, ExtensionPoints, Plugin, Reach, Reasons, Rule, Verdict};
use scheduler::kube_configuration::Registry;
use scheduler::node::Node;
use scheduler::pod::PodSignature;
use scheduler::{Profile, Scheduler, SchedulerConfiguration};
use serde_json::{Value, json};
use std::sync::Arc;

fn read(body: &str) -> Result<SchedulerConfiguration, String> {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    Registry::default()
        .read(&format!("{head}{body}"))
        .map_err(|error| error.to_string())
}

/// `name weight` of the plugins of a profile that take part somewhere.
fn enabled(profile: &Profile, point: ExtensionPoints) -> Vec<String> {
    let plugins = profile.plugins.iter().filter(|enabled| enabled.points.meets(point));
    plugins
        .map(|enabled| format!("{} {}", enabled.plugin.name(), enabled.weight))
        .collect()
}

fn names(profile: &Profile, point: ExtensionPoints) -> Vec<&'static str> {
    let plugins = profile.plugins.iter().filter(|enabled| enabled.points.meets(point));
    plugins.map(|enabled| enabled.plugin.name()).collect()
}

#[test]
fn nothing_said_is_kubernetes_default() {
    let configuration = read("").expect("it is valid");
    assert_eq!(configuration.profiles.len(), 1);
    let profile = &configuration.profiles[0];
    assert_eq!(profile.scheduler_name, "default-scheduler");
    let scores: Vec<String> = enabled(profile, ExtensionPoints::SCORE);
    for want in [
        "TaintToleration 3",
        "NodeAffinity 2",
        "NodeResourcesFit 1",
        "PodTopologySpread 2",
        "InterPodAffinity 2",
        "NodeResourcesBalancedAllocation 1",
        "ImageLocality 1",
    ] {
        assert!(scores.contains(&want.to_owned()), "{want} in {scores:?}");
    }
}

#[test]
fn settings_are_taken_over() {
    let configuration = read(
        "parallelism: 4\npercentageOfNodesToScore: 30\npodInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 20\n\
         leaderElection: {leaderElect: true}\nprofiles:\n- schedulerName: a\n- schedulerName: b\n  percentageOfNodesToScore: 0\n",
    )
    .expect("it is valid");
    assert_eq!(configuration.parallelism, 4);
    assert_eq!(configuration.percentage_of_nodes_to_score, 30);
    assert_eq!(
        (configuration.backoff_initial_ms, configuration.backoff_max_ms),
        (2_000, 20_000)
    );
    let percentages: Vec<_> = configuration
        .profiles
        .iter()
        .map(|p| p.percentage_of_nodes_to_score)
        .collect();
    assert_eq!(percentages, [None, Some(0)]);
}

#[test]
fn plugins_are_merged_as_kube_scheduler_merges_them() {
    let configuration = read(
        r#"
profiles:
- schedulerName: p
  plugins:
    multiPoint:
      enabled:
      - {name: NodeResourcesFit, weight: 7}
      disabled:
      - {name: ImageLocality}
      - {name: DefaultPreemption}
    score:
      disabled:
      - {name: InterPodAffinity}
      - {name: NodeResourcesBalancedAllocation}
      enabled:
      - {name: NodeResourcesBalancedAllocation, weight: 5}
      - {name: TaintToleration, weight: 9}
      - {name: NodeAffinity}
      - {name: ImageLocality, weight: 4}
    filter:
      disabled: [{name: "*"}]
      enabled: [{name: NodeName}, {name: NodePorts}]
"#,
    )
    .expect("it is valid");
    let profile = &configuration.profiles[0];
    let scores = enabled(profile, ExtensionPoints::SCORE);
    for want in [
        "NodeResourcesFit 7",
        "NodeResourcesBalancedAllocation 5",
        "TaintToleration 9",
        "ImageLocality 4",
        "NodeAffinity 1",
    ] {
        assert!(scores.contains(&want.to_owned()), "{want} in {scores:?}");
    }
    assert!(!scores.iter().any(|score| score.starts_with("InterPodAffinity")));
    assert_eq!(names(profile, ExtensionPoints::FILTER), ["NodeName", "NodePorts"]);
    // Disabled everywhere, and enabled again at one point only.
    assert!(!names(profile, ExtensionPoints::POST_FILTER).contains(&"DefaultPreemption"));
    assert!(!names(profile, ExtensionPoints::PRE_FILTER).contains(&"ImageLocality"));
    // The default order is kept.
    let order = names(profile, ExtensionPoints::RESERVE);
    assert!(order.iter().position(|n| *n == "NodeName") < order.iter().position(|n| *n == "NodeResourcesFit"));
}

#[test]
fn all_defaults_can_be_disabled() {
    let configuration = read(
        "profiles:\n- plugins:\n    multiPoint:\n      disabled: [{name: '*'}]\n      enabled: [{name: PrioritySort}, {name: NodePorts}, {name: DefaultBinder}]\n",
    )
    .expect("it is valid");
    assert_eq!(
        names(&configuration.profiles[0], ExtensionPoints::ALL),
        ["PrioritySort", "NodePorts", "DefaultBinder"]
    );
}

#[test]
fn what_is_not_understood_is_refused_with_the_reason() {
    for (body, words) in [
        ("profils: []", "unknown field `profils`"),
        ("extenders: [{urlPrefix: 'http://x'}]", "extenders are not called"),
        ("parallelism: 0", "parallelism must be 1 or more, not 0"),
        ("percentageOfNodesToScore: 101", "must be from 0 to 100, not 101"),
        ("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds is less"),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "another profile has this schedulerName",
        ),
        (
            "profiles: [{plugins: {multiPoint: {enabled: [{name: Nobody}]}}}]",
            "there is no plugin \"Nobody\"; known are DefaultBinder, ",
        ),
        (
            "profiles: [{plugins: {bind: {disabled: [{name: DefaultBinder}]}}}]",
            "no plugin is enabled at bind",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: NodeName}, {name: NodeName}]}}}]",
            "enabled twice",
        ),
        (
            "profiles: [{schedulerName: a}, {schedulerName: b, plugins: {queueSort: {disabled: [{name: '*'}]}}}]",
            "all profiles share one queue",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeName, args: {a: 1}}]}]",
            "NodeName: it takes no arguments",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "no scoringStrategy of type \"Best\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {ignored: []}}]}]",
            "unknown field `ignored`",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 1}, {utilization: 50, score: 2}]}}}}]}]",
            "ascending",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
            "hardPodAffinityWeight must be from 0 to 100, not 101",
        ),
        (
            "profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]}]",
            "cannot both be 0",
        ),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}]}}]}]",
            "need defaultingType List",
        ),
        (
            "profiles: [{pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 0}]}}]}]",
            "not scored by storage capacity",
        ),
    ] {
        match read(body) {
            Ok(_) => panic!("{body} was accepted"),
            Err(error) => assert!(error.contains(words), "{body}: {error}"),
        }
    }
    let other =
        Registry::default().read("apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n");
    assert!(other.is_err_and(|error| error.to_string().contains("v1beta3")));
}

fn node(name: &str, over: Value) -> core::Node {
    let mut object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
    merge(&mut object, over);
    serde_json::from_value(object).expect("well-formed")
}

fn pod(name: &str, over: Value) -> core::Pod {
    let mut object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}});
    merge(&mut object, over);
    serde_json::from_value(object).expect("well-formed")
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn scheduler_with(plugin_config: &str, nodes: &[core::Node]) -> Scheduler {
    let configuration = read(&format!("profiles: [{{pluginConfig: [{plugin_config}]}}]")).expect("it is valid");
    let mut scheduler = Scheduler::new(configuration);
    nodes.iter().for_each(|node| {
        scheduler.upsert_node(node);
    });
    scheduler
}

/// The feasible nodes with the weighted score of one plugin.
fn scores(scheduler: &mut Scheduler, pod: &core::Pod, plugin: &str) -> Vec<(String, i64)> {
    let evaluation = scheduler.evaluate(pod).expect("the default profile schedules it");
    let score = |by: &[(&str, i64)]| {
        by.iter()
            .find(|(name, _)| *name == plugin)
            .map_or(-1, |(_, score)| *score)
    };
    let mut scores: Vec<_> = evaluation
        .feasible
        .iter()
        .map(|n| (n.node.to_string(), score(&n.by_plugin)))
        .collect();
    scores.sort();
    scores
}

#[test]
fn added_affinity_holds_for_every_pod() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let nodes = [
        node("a1", zone("a")),
        node("b1", zone("b")),
        node("b2", json!({"metadata": {"labels": {"zone": "b", "disk": "ssd"}}})),
    ];
    let mut scheduler = scheduler_with(
        "{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
         [{matchExpressions: [{key: zone, operator: In, values: [b]}]}]}, preferredDuringSchedulingIgnoredDuringExecution: \
         [{weight: 5, preference: {matchExpressions: [{key: disk, operator: Exists}]}}]}}}",
        &nodes,
    );
    assert_eq!(
        scores(&mut scheduler, &pod("p", json!({})), "NodeAffinity"),
        [("b1".into(), 0), ("b2".into(), 200)]
    );
    scheduler.upsert_pod(&pod("q", json!({"spec": {"nodeSelector": {"zone": "a"}}})));
    let decisions = scheduler.schedule_batch(0, 1);
    let [scheduler::Decision::Unschedulable(why)] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert!(
        why.message().starts_with(
            "0/3 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity, 2 node(s) didn't match Pod's \
             node affinity/selector."
        ),
        "{}",
        why.message()
    );
}

#[test]
fn ignored_extended_resources_need_not_fit() {
    let asks = pod(
        "p",
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests":
        {"example.com/gpu": "1", "other.org/fpga": "1"}}}]}}),
    );
    for (args, fits) in [
        ("{}", false),
        ("{ignoredResources: [example.com/gpu]}", false),
        ("{ignoredResources: [example.com/gpu, other.org/fpga]}", true),
        (
            "{ignoredResources: [example.com/gpu], ignoredResourceGroups: [other.org]}",
            true,
        ),
    ] {
        let mut scheduler = scheduler_with(
            &format!("{{name: NodeResourcesFit, args: {args}}}"),
            &[node("n1", json!({}))],
        );
        let evaluation = scheduler.evaluate(&asks).expect("scheduled here");
        assert_eq!(!evaluation.feasible.is_empty(), fits, "{args}");
    }
}

#[test]
fn default_constraints_of_a_profile_spread_the_pods_of_a_service() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let nodes = [node("a1", zone("a")), node("b1", zone("b"))];
    let mut scheduler = scheduler_with(
        "{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, \
         whenUnsatisfiable: DoNotSchedule}]}}",
        &nodes,
    );
    let web = |name: &str| pod(name, json!({"metadata": {"labels": {"app": "web"}}}));
    let mut on_a = web("x");
    on_a.spec.as_mut().expect("a spec").node_name = Some("a1".to_owned());
    scheduler.upsert_pod(&on_a);
    assert_eq!(scheduler.evaluate(&web("p")).expect("scheduled here").feasible.len(), 2);
    let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "web"}}});
    scheduler.upsert_service(&serde_json::from_value(service).expect("well-formed"));
    let feasible = scheduler.evaluate(&web("p")).expect("scheduled here").feasible;
    assert_eq!(feasible.iter().map(|node| &*node.node).collect::<Vec<_>>(), ["b1"]);
}

#[test]
fn terms_of_running_pods_can_be_ignored_for_pods_without_preferences() {
    for (args, scored) in [("{}", true), ("{ignorePreferredTermsOfExistingPods: true}", false)] {
        let nodes = [node("n1", json!({})), node("n2", json!({}))];
        let mut scheduler = scheduler_with(&format!("{{name: InterPodAffinity, args: {args}}}"), &nodes);
        scheduler.upsert_pod(&pod(
            "fan",
            json!({"spec": {"nodeName": "n1", "affinity": {"podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm": {"topologyKey":
            "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}}]}}}}),
        ));
        let web = pod("p", json!({"metadata": {"labels": {"app": "web"}}}));
        let got = scores(&mut scheduler, &web, "InterPodAffinity");
        assert_eq!(got.iter().any(|(_, score)| *score == 200), scored, "{args}: {got:?}");
    }
}

/// A third party's plugin with arguments: no pods on one node.
struct Avoid {
    node: String,
}

struct AvoidRule(Option<scheduler::intern::Sym>);

impl Plugin for Avoid {
    fn name(&self) -> &'static str {
        "Avoid"
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, _signature: &PodSignature) -> Compiled {
        Compiled::Rule(Box::new(AvoidRule(cluster.symbols.lookup(&self.node))))
    }
}

impl Rule for AvoidRule {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, _cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        if Some(node.name) != self.0 {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text("node(s) are avoided"));
        Verdict::NeverFits
    }
}

#[test]
fn a_plugin_of_a_third_party_is_configured_like_ours() {
    let registry = Registry::default().with("Avoid", |args| {
        let node = args["node"].as_str().ok_or("node must be a string")?.to_owned();
        Ok(Arc::new(Avoid { node }))
    });
    let text = |args: &str| {
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n- plugins:\n    \
             filter:\n      enabled: [{{name: Avoid}}]\n  pluginConfig:\n  - {{name: Avoid, args: {args}}}\n"
        )
    };
    let mut scheduler = Scheduler::new(registry.read(&text("{node: n1}")).expect("it is valid"));
    scheduler.upsert_node(&node("n1", json!({})));
    scheduler.upsert_node(&node("n2", json!({})));
    let evaluation = scheduler.evaluate(&pod("p", json!({}))).expect("scheduled here");
    assert_eq!(
        evaluation
            .refused
            .iter()
            .map(|(node, plugin)| (&**node, *plugin))
            .collect::<Vec<_>>(),
        [("n1", "Avoid")]
    );
    let refused = registry.read(&text("{}")).map(|_| ()).expect_err("the node is missing");
    assert!(
        refused
            .to_string()
            .contains("pluginConfig of Avoid: node must be a string"),
        "{refused}"
    );
}
