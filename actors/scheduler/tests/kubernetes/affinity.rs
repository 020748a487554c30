//! InterPodAffinity: required and preferred terms of both sides, namespaces, and label keys.

use crate::{Case, Object, node, pod};
use serde_json::{Value, json};

fn place(name: &str, region: &str, az: &str) -> Object {
    let mut labels = json!({});
    if !region.is_empty() {
        labels["region"] = json!(region);
    }
    if !az.is_empty() {
        labels["az"] = json!(az);
    }
    node(name).labelled(labels)
}

fn secured(name: &str, level: &str) -> Object {
    pod(name).labelled(json!({"security": level}))
}

fn term(key: &str, level: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchExpressions": [{"key": "security", "operator": "In", "values": [level]}]}})
}

fn preferred(kind: &str, terms: &[(i32, Value)]) -> Value {
    let terms: Vec<Value> = terms
        .iter()
        .map(|(weight, term)| json!({"weight": weight, "podAffinityTerm": term}))
        .collect();
    json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

fn required(kind: &str, terms: Value) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

#[test]
fn preferred_terms_score_domains() {
    let stay = |key: &str, weight: i32| secured("p", "S2").with(preferred("podAffinity", &[(weight, term(key, "S1"))]));
    let leave = |key: &str| secured("p", "S2").with(preferred("podAntiAffinity", &[(5, term(key, "S1"))]));
    for (what, pod, nodes, running, want) in [
        (
            "near a pod of S1, in the region",
            stay("region", 5),
            vec![
                place("m1", "China", ""),
                place("m2", "India", ""),
                place("m3", "", "az1"),
            ],
            vec![
                secured("a", "S1").on("m1"),
                secured("b", "S2").on("m2"),
                secured("c", "S1").on("m3"),
            ],
            vec![100, 0, 0],
        ),
        (
            "all nodes of the region",
            stay("region", 5),
            vec![
                place("m1", "China", ""),
                place("m2", "China", "az1"),
                place("m3", "India", ""),
            ],
            vec![secured("a", "S1").on("m1")],
            vec![100, 100, 0],
        ),
        (
            "regions with more such pods",
            stay("region", 5),
            vec![
                place("m1", "China", ""),
                place("m2", "India", ""),
                place("m3", "China", ""),
                place("m4", "China", ""),
                place("m5", "India", ""),
            ],
            vec![
                secured("a", "S1").on("m1"),
                secured("b", "S1").on("m1"),
                secured("c", "S1").on("m2"),
            ],
            vec![100, 0, 100, 100, 0],
        ),
        (
            "away from S1",
            leave("az"),
            vec![place("m1", "", "az1"), place("m2", "China", "")],
            vec![secured("a", "S1").on("m1"), secured("b", "S2").on("m2")],
            vec![0, 100],
        ),
        (
            "away from most of S1",
            leave("az"),
            vec![place("m1", "", "az1"), place("m2", "", "az2")],
            vec![
                secured("a", "S1").on("m1"),
                secured("b", "S1").on("m2"),
                secured("c", "S1").on("m2"),
            ],
            vec![100, 0],
        ),
    ] {
        assert_eq!(
            Case::new(nodes).running(running).scores(&pod, "InterPodAffinity"),
            want,
            "{what}"
        );
    }
}

#[test]
fn terms_of_running_pods_score_symmetrically() {
    let nodes = || {
        vec![
            place("m1", "China", ""),
            place("m2", "India", ""),
            place("m3", "", "az1"),
        ]
    };
    let wants = |weight: i32| preferred("podAffinity", &[(weight, term("region", "S2"))]);
    let avoids = preferred("podAntiAffinity", &[(5, term("region", "S2"))]);
    let requires = required("podAffinity", json!([term("region", "S2")]));
    let incoming = secured("p", "S2");
    for (what, config, running, want) in [
        (
            "a running pod that prefers it near",
            "",
            vec![secured("a", "S1").with(wants(5)).on("m1")],
            vec![100, 0, 0],
        ),
        (
            "two that do, the stronger wins",
            "",
            vec![
                secured("a", "S1").with(wants(8)).on("m1"),
                secured("b", "S1").with(wants(2)).on("m2"),
            ],
            vec![100, 25, 0],
        ),
        (
            "a running pod that prefers it away",
            "",
            vec![secured("a", "S1").with(avoids).on("m1")],
            vec![0, 100, 100],
        ),
        (
            "a running pod that requires it near counts 1",
            "",
            vec![secured("a", "S1").with(requires.clone()).on("m1")],
            vec![100, 0, 0],
        ),
        (
            "or as much as is configured",
            "{name: InterPodAffinity, args: {hardPodAffinityWeight: 10}}",
            vec![
                secured("a", "S1").with(requires.clone()).on("m1"),
                secured("b", "S1").with(wants(5)).on("m2"),
            ],
            vec![100, 50, 0],
        ),
        (
            "or nothing",
            "{name: InterPodAffinity, args: {hardPodAffinityWeight: 0}}",
            vec![secured("a", "S1").with(requires).on("m1")],
            vec![0, 0, 0],
        ),
    ] {
        assert_eq!(
            Case::configured(config, nodes())
                .running(running)
                .scores(&incoming, "InterPodAffinity"),
            want,
            "{what}"
        );
    }
}

#[test]
fn required_terms_filter() {
    let service = |value: &str| json!({"service": value});
    let operators = |operator: &str, values: Value| json!([{"topologyKey": "region", "labelSelector": {"matchExpressions": [{"key": "service", "operator": operator, "values": values}]}}]);
    let web = |name: &str| pod(name).labelled(service("securityscan"));
    let near = |operator: &str, values: Value| pod("p").with(required("podAffinity", operators(operator, values)));
    let away = |operator: &str, values: Value| pod("p").with(required("podAntiAffinity", operators(operator, values)));
    for (what, pod, running, fits) in [
        (
            "in",
            near("In", json!(["securityscan", "value2"])),
            vec![web("a")],
            true,
        ),
        (
            "not in",
            near("NotIn", json!(["securityscan3", "value3"])),
            vec![web("a")],
            true,
        ),
        ("in, of another", near("In", json!(["other"])), vec![web("a")], false),
        ("exists", near("Exists", json!([])), vec![web("a")], true),
        (
            "in another namespace",
            near("In", json!(["securityscan"])),
            vec![web("a").with(json!({"metadata": {"namespace": "ns"}}))],
            false,
        ),
        (
            "away, and it is there",
            away("In", json!(["securityscan"])),
            vec![web("a")],
            false,
        ),
        (
            "away, and another is there",
            away("In", json!(["other"])),
            vec![web("a")],
            true,
        ),
        (
            "away from the running, whose label is absent",
            away("DoesNotExist", json!([])),
            vec![web("a")],
            true,
        ),
    ] {
        let running = running.into_iter().map(|pod| pod.on("m1"));
        let mut case = Case::new([place("m1", "r1", "")]).running(running);
        assert_eq!(!case.feasible(&pod).is_empty(), fits, "{what}");
    }
}

#[test]
fn all_required_terms_must_speak_of_one_pod() {
    let two = required(
        "podAffinity",
        json!([
        {"topologyKey": "region", "labelSelector": {"matchExpressions": [{"key": "foo", "operator": "Exists"}]}},
        {"topologyKey": "region", "labelSelector": {"matchExpressions": [{"key": "bar", "operator": "Exists"}]}}]),
    );
    let incoming = pod("p").with(two);
    let foo = pod("a").labelled(json!({"foo": "x"})).on("m1");
    let bar = pod("b").labelled(json!({"bar": "x"})).on("m1");
    let both = pod("c").labelled(json!({"foo": "x", "bar": "x"})).on("m1");
    for (running, fits) in [(vec![foo.clone(), bar], false), (vec![foo, both], true)] {
        assert_eq!(
            !Case::new([place("m1", "r1", "")])
                .running(running)
                .feasible(&incoming)
                .is_empty(),
            fits
        );
    }
}

#[test]
fn the_first_pod_may_match_itself() {
    let zones = || [place("m1", "", "az1"), place("m2", "", "az2"), place("m3", "", "")];
    let both = json!([{"topologyKey": "az", "labelSelector": {"matchLabels": {"foo": "bar"}}},
        {"topologyKey": "az", "labelSelector": {"matchLabels": {"service": "x"}}}]);
    let incoming = pod("p")
        .labelled(json!({"foo": "bar", "service": "x"}))
        .with(required("podAffinity", both.clone()));
    // Nobody is there: it may go wherever the label is.
    assert_eq!(Case::new(zones()).feasible(&incoming), ["m1", "m2"]);
    // It does not match all of its own terms.
    let half = pod("p")
        .labelled(json!({"foo": "bar"}))
        .with(required("podAffinity", both));
    assert!(Case::new(zones()).feasible(&half).is_empty());
    // Somebody is there, of whom all terms speak.
    let there = pod("a").labelled(json!({"foo": "bar", "service": "x"})).on("m2");
    assert_eq!(Case::new(zones()).running([there]).feasible(&incoming), ["m2"]);
}

#[test]
fn anti_affinity_of_running_pods_keeps_others_away() {
    let keeps_away = required(
        "podAntiAffinity",
        json!([{"topologyKey": "region", "labelSelector": {"matchLabels": {"foo": "bar"}}}]),
    );
    let nodes = || {
        [
            place("m1", "r1", ""),
            place("m2", "r1", ""),
            place("m3", "r2", ""),
            place("m4", "", ""),
        ]
    };
    let running = || [pod("a").with(keeps_away.clone()).on("m1")];
    let incoming = pod("p").labelled(json!({"foo": "bar"}));
    assert_eq!(Case::new(nodes()).running(running()).feasible(&incoming), ["m3", "m4"]);
    assert_eq!(Case::new(nodes()).running(running()).feasible(&pod("q")).len(), 4);
    let message = Case::new(nodes().into_iter().take(2))
        .running(running())
        .refused(&incoming)
        .message();
    assert!(
        message.starts_with("0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."),
        "{message}"
    );
}

#[test]
fn namespaces_are_listed_and_selected() {
    let case = || {
        Case::new([place("m1", "r1", ""), place("m2", "r2", "")])
            .namespace("default", json!({}))
            .namespace("subteam1.team1", json!({"team": "team1"}))
            .namespace("subteam2.team1", json!({"team": "team1"}))
            .namespace("subteam1.team2", json!({"team": "team2"}))
            .running([pod("a")
                .labelled(json!({"foo": "bar"}))
                .with(json!({"metadata": {"namespace": "subteam2.team1"}}))
                .on("m1")])
    };
    let near = |over: Value| {
        let mut term = json!({"topologyKey": "region", "labelSelector": {"matchLabels": {"foo": "bar"}}});
        over.as_object()
            .expect("an object")
            .iter()
            .for_each(|(key, value)| term[key] = value.clone());
        pod("p").with(required("podAffinity", json!([term])))
    };
    let team = |name: &str| json!({"matchLabels": {"team": name}});
    for (over, want) in [
        (json!({"namespaces": ["subteam2.team1"]}), vec!["m1"]),
        (json!({"namespaces": ["subteam1.team2"]}), vec![]),
        (json!({"namespaceSelector": team("team1")}), vec!["m1"]),
        (json!({"namespaceSelector": team("team2")}), vec![]),
        (
            json!({"namespaces": ["subteam1.team2"], "namespaceSelector": team("team1")}),
            vec!["m1"],
        ),
        // An empty selector is every namespace, none is the pod's own.
        (json!({"namespaceSelector": {}}), vec!["m1"]),
        (json!({}), vec![]),
    ] {
        assert_eq!(case().feasible(&near(over.clone())), want, "{over}");
    }
}

#[test]
fn label_keys_narrow_and_widen_terms() {
    let versioned = |name: &str, version: &str| pod(name).labelled(json!({"app": "web", "version": version}));
    let with = |kind: &str, keys: Value| {
        let mut term = json!({"topologyKey": "region", "labelSelector": {"matchLabels": {"app": "web"}}});
        keys.as_object()
            .expect("an object")
            .iter()
            .for_each(|(key, value)| term[key] = value.clone());
        required(kind, json!([term]))
    };
    let case = || {
        Case::new([place("m1", "r1", ""), place("m2", "r2", "")])
            .running([versioned("a", "1").on("m1"), versioned("b", "2").on("m2")])
    };
    for (kind, keys, want) in [
        ("podAffinity", json!({"matchLabelKeys": ["version"]}), vec!["m1"]),
        ("podAffinity", json!({"mismatchLabelKeys": ["version"]}), vec!["m2"]),
        ("podAntiAffinity", json!({"matchLabelKeys": ["version"]}), vec!["m2"]),
        ("podAntiAffinity", json!({"mismatchLabelKeys": ["version"]}), vec!["m1"]),
        ("podAffinity", json!({"matchLabelKeys": ["absent"]}), vec!["m1", "m2"]),
    ] {
        assert_eq!(
            case().feasible(&versioned("p", "1").with(with(kind, keys.clone()))),
            want,
            "{kind} {keys}"
        );
    }
}
