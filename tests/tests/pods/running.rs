//! What the unmodified kubectl changes in a pod that runs: containers for debugging (`kubectl debug`, KEP-277) and new sizes
//! (`--subresource resize`, KEP-1287), on a real node, looked at from the machine.

use std::process::{Command, Output};

use serde_json::json;

use super::*;

/// `kubectl debug` in a terminal that `script` makes, ended by `timeout` when it hangs.
fn debug(kubectl: &Kubectl, arguments: &str, script: &str) -> Output {
    let command = kubectl.command();
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = format!(
        "exec timeout 60 {} debug {arguments} -- sh -c '{script}'",
        words.join(" ")
    );
    let mut recorded = Command::new("script");
    recorded.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let recorded = recorded.env("SHELL", "/bin/sh").args(["-qec", &line, "/dev/null"]);
    let pipes = recorded.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().expect("the program `script` (bsdutils) runs");
    // Kept open: its end would end the terminal.
    let mut typed = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut typed, b"go\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    drop(typed);
    output
}

fn a_debugger_sees_the_processes_of_its_target(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    await_log(&kubectl, "debugged", &["ready"]);
    let image = "--image=actorium.local/busybox:1 --image-pull-policy=Never";
    let arguments = format!("debugged {image} -it --target=main -c first --profile=general --env=WORD=sesame");
    let output = debug(
        &kubectl,
        &arguments,
        "read word; ps; test -t 0 && echo terminal; echo word=$WORD; hostname; exit 3",
    );
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["sleep 4321", "terminal", "word=sesame", "debugged"] {
        assert!(printed.contains(part), "{part:?} is not in {printed:?}");
    }
    assert!(!printed.contains("falling back"), "{printed}");
    let ended = |status: &Value| {
        let first = &status["ephemeralContainerStatuses"][0];
        first["name"] == "first" && first["state"]["terminated"]["exitCode"] == 3
    };
    let status = await_status(cluster, "debugged", "tells of its debugger's end", ended);
    assert_eq!(status["phase"], "Running", "{status}");
    assert!(container(&status)["restartCount"] == 0, "{status}");
    // It is over for good, its log stays.
    await_log(&kubectl, "debugged -c first", &["sleep 4321"]);
    // Without a target: processes of its own. It stays, commands and attach reach it.
    let mut command = kubectl.command();
    command.args(format!("debug debugged {image} -c second --").split(' '));
    let begun = command
        .args(["sh", "-c", "ps; echo up; exec sleep 765"])
        .output()
        .expect("kubectl runs");
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    let log = await_log(&kubectl, "debugged -c second", &["up"]);
    assert!(!log.contains("sleep 4321"), "{log}");
    await_status(cluster, "debugged", "has a second debugger", |status| {
        let all = status["ephemeralContainerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        all.iter()
            .any(|one| one["name"] == "second" && one["state"]["running"].is_object() && one["ready"] == false)
    });
    assert!(kubectl.run("exec debugged -c second -- ps").contains("sleep 765"));
    let described = kubectl.run("describe pod debugged");
    assert!(described.contains("Ephemeral Containers:"), "{described}");
}

/// Writes to the subresource by hand: what Kubernetes refuses is refused in its words.
fn ephemeral_containers_are_checked(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let path = "/api/v1/namespaces/default/pods/debugged/ephemeralcontainers";
    let pod = cluster.read(path).expect("it is read");
    let put = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut pod = pod.clone();
        change(
            pod["spec"]["ephemeralContainers"]
                .as_array_mut()
                .expect("there are two"),
        );
        let file = cluster.directory().join("put.json");
        std::fs::write(&file, pod.to_string()).expect("it can be written");
        let output = kubectl.output(&format!("replace --raw={path} -f {}", file.display()));
        assert!(!output.status.success(), "{pod} was taken");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let serving = json!({"name": "third", "image": "i", "ports": [{"containerPort": 1, "protocol": "TCP"}]});
    let refused = put(&|all| all.push(serving.clone()));
    assert!(
        refused.contains("[2].ports: Forbidden: cannot be set for an Ephemeral Container"),
        "{refused}"
    );
    let lost = json!({"name": "third", "image": "i", "targetContainerName": "nobody"});
    let refused = put(&|all| all.push(lost.clone()));
    assert!(
        refused.contains("[2].targetContainerName: Not found: \"nobody\""),
        "{refused}"
    );
    let refused = put(&|all| all.push(json!({"name": "main", "image": "i"})));
    assert!(refused.contains("[2].name: Duplicate value: \"main\""), "{refused}");
    let refused = put(&|all| drop(all.pop()));
    assert!(
        refused.contains("existing ephemeral containers \"second\" may not be removed"),
        "{refused}"
    );
    let text = r#"{"spec":{"ephemeralContainers":[{"name":"third","image":"i"}]}}"#;
    let by_main = kubectl
        .command()
        .args(["patch", "pod", "debugged", "-p", text])
        .output()
        .expect("kubectl runs");
    let refused = String::from_utf8_lossy(&by_main.stderr).into_owned();
    assert!(
        refused.contains("pod updates may not change fields other than"),
        "{refused}"
    );
}

fn resize(kubectl: &Kubectl, name: &str, resources: &str) -> Result<(), String> {
    let text = format!(r#"{{"spec":{{"containers":[{{"name":"main","resources":{resources}}}]}}}}"#);
    let mut command = kubectl.command();
    command.args(["patch", "pod", name, "--subresource", "resize", "-p", &text]);
    let output = command.output().expect("kubectl runs");
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Quota of cpu in microseconds of 100 ms, memory in bytes, and the weight, as the kernel has them.
fn in_force(cluster: &Cluster, name: &str) -> (String, String, String) {
    let pids = pids_of_pod(cluster, name);
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let quota = control_file(&pids, "cpu", "cpu.max");
        (
            quota.split(' ').next().unwrap_or_default().to_owned(),
            control_file(&pids, "memory", "memory.max"),
            control_file(&pids, "cpu", "cpu.weight"),
        )
    } else {
        (
            control_file(&pids, "cpu", "cpu.cfs_quota_us"),
            control_file(&pids, "memory", "memory.limit_in_bytes"),
            control_file(&pids, "cpu", "cpu.shares"),
        )
    }
}

fn has_resized(status: &Value, cpu_limit: &str) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let pending = conditions
        .iter()
        .any(|condition| condition["type"].as_str().unwrap_or_default().starts_with("PodResize"));
    !pending && container(status)["resources"]["limits"]["cpu"] == cpu_limit
}

fn a_resize_changes_what_is_in_force(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    await_log(&kubectl, "resized", &["ready"]);
    let before = in_force(cluster, "resized");
    assert_eq!((before.0.as_str(), before.1.as_str()), ("20000", "33554432"));
    let first = first_pid(cluster, "resized");
    let asks = r#"{"requests":{"cpu":"200m"},"limits":{"cpu":"400m","memory":"64Mi"}}"#;
    resize(&kubectl, "resized", asks).expect("it is granted");
    let status = await_status(cluster, "resized", "has its new size", |status| {
        has_resized(status, "400m")
    });
    let after = in_force(cluster, "resized");
    assert_eq!((after.0.as_str(), after.1.as_str()), ("40000", "67108864"));
    assert_ne!(after.2, before.2, "the weight follows the request");
    assert_eq!(container(&status)["allocatedResources"]["cpu"], "200m", "{status}");
    assert_eq!(container(&status)["restartCount"], 0, "{status}");
    assert_eq!(first_pid(cluster, "resized"), first, "it is the same process");
    let pod = kubectl.get("pod resized");
    assert_eq!(pod["metadata"]["generation"], 2);
    assert_eq!(pod["status"]["observedGeneration"], 2);
    // And back.
    resize(
        &kubectl,
        "resized",
        r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"200m","memory":"32Mi"}}"#,
    )
    .expect("granted");
    await_status(cluster, "resized", "has its old size again", |status| {
        has_resized(status, "200m")
    });
    assert_eq!(in_force(cluster, "resized"), before);
    await_event(cluster, "resized", "ResizeCompleted", "\"cpu\":\"200m\"");
}

fn first_pid(cluster: &Cluster, name: &str) -> u32 {
    *pids_of_pod(cluster, name).iter().min().expect("it has processes")
}

fn a_policy_restarts_the_container(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    await_log(&kubectl, "restarted", &["ready"]);
    resize(&kubectl, "restarted", r#"{"limits":{"cpu":"300m","memory":"32Mi"}}"#).expect("granted");
    let status = await_status(cluster, "restarted", "has more cpu", |status| {
        has_resized(status, "300m")
    });
    assert_eq!(container(&status)["restartCount"], 0, "cpu restarts nothing: {status}");
    resize(&kubectl, "restarted", r#"{"limits":{"memory":"48Mi"}}"#).expect("granted");
    let status = await_status(cluster, "restarted", "was started again", |status| {
        container(status)["restartCount"] == 1
            && container(status)["state"]["running"].is_object()
            && container(status)["resources"]["limits"]["memory"] == "48Mi"
            && has_resized(status, "300m")
    });
    let (cpu, memory, _) = in_force(cluster, "restarted");
    assert_eq!((cpu.as_str(), memory.as_str()), ("30000", "50331648"), "{status}");
}

fn what_does_not_fit_waits_or_is_refused(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    await_log(&kubectl, "large", &["ready"]);
    let condition = |status: &Value, reason: &str| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .into_iter()
            .find(|one| one["type"] == "PodResizePending" && one["reason"] == reason)
    };
    let node = &kubectl.get("nodes")["items"][0];
    let allocatable = node["status"]["allocatable"]["cpu"].as_str().expect("cpu").to_owned();
    let milli: u64 = match allocatable.strip_suffix('m') {
        Some(milli) => milli.parse().expect("a number"),
        None => allocatable.parse::<u64>().expect("a number") * 1000,
    };
    resize(&kubectl, "large", r#"{"requests":{"cpu":"999"}}"#).expect("the API server takes it");
    let status = await_status(cluster, "large", "is too large for its node", |status| {
        condition(status, "Infeasible").is_some()
    });
    let told = condition(&status, "Infeasible").expect("it is there");
    let message = told["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        message.starts_with("Node didn't have enough capacity: cpu, requested: 999000"),
        "{message}"
    );
    assert_eq!(told["observedGeneration"], 2, "{told}");
    resize(
        &kubectl,
        "large",
        &format!(r#"{{"requests":{{"cpu":"{}m"}}}}"#, milli - 50),
    )
    .expect("the API server takes it");
    let status = await_status(cluster, "large", "waits for room", |status| {
        condition(status, "Deferred").is_some()
    });
    assert_eq!(container(&status)["allocatedResources"]["cpu"], "150m", "{status}");
    // The others leave: there is room.
    kubectl.run("delete pod resized restarted debugged --wait=false");
    await_status(cluster, "large", "is granted what it waited for", |status| {
        condition(status, "Deferred").is_none()
            && container(status)["allocatedResources"]["cpu"] == format!("{}m", milli - 50)
    });
    let refused = resize(
        &kubectl,
        "large",
        r#"{"limits":{"cpu":"999"},"requests":{"cpu":"999","memory":"1Gi"}}"#,
    );
    assert!(refused.is_ok(), "more limits leave it Burstable: {refused:?}");
    for (asks, expected) in [
        (
            r#"{"requests":{"ephemeral-storage":"1Gi"}}"#,
            "only cpu and memory resources are mutable",
        ),
        (r#"{"requests":{"memory":null}}"#, "resource requests cannot be removed"),
    ] {
        let refused = resize(&kubectl, "large", asks).expect_err("it is refused");
        assert!(refused.contains(expected), "{refused}");
    }
}

fn all_of_it_goes(cluster: &Cluster) {
    cluster.kubectl(0).run("delete pods --all");
    let node = &cluster.nodes[0];
    let left = || match tests::remains::of_pods(&node.name, &node.data_dir, &node.machine, cluster.pid(0)) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    };
    wait_for("nothing is left of the pods", SOON, left);
}

#[test]
fn running_pods_are_debugged_and_resized() {
    let cluster = Cluster::start(41, 1);
    cluster.import_images(0);
    let limits = "resources: {requests: {cpu: 100m}, limits: {cpu: 200m, memory: 32Mi}}";
    let policy = "resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]";
    let waits = "echo ready; exec sleep 4321";
    let pods = [
        pod("debugged", waits, "", ""),
        pod("resized", waits, "", limits),
        pod("restarted", waits, "", &format!("{limits}\n{policy}")),
        pod("large", waits, "", "resources: {requests: {cpu: 150m}}"),
    ];
    cluster.kubectl(0).apply(&pods.concat());
    let checks: [(&str, fn(&Cluster)); 6] = [
        (
            "a_debugger_sees_the_processes_of_its_target",
            a_debugger_sees_the_processes_of_its_target,
        ),
        ("ephemeral_containers_are_checked", ephemeral_containers_are_checked),
        ("a_resize_changes_what_is_in_force", a_resize_changes_what_is_in_force),
        ("a_policy_restarts_the_container", a_policy_restarts_the_container),
        (
            "what_does_not_fit_waits_or_is_refused",
            what_does_not_fit_waits_or_is_refused,
        ),
        ("all_of_it_goes", all_of_it_goes),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&cluster)));
        println!("measured: {name}: {} ms", begun.elapsed().as_millis());
        failed.extend(outcome.is_err().then_some(name));
    }
    assert!(failed.is_empty(), "failed: {failed:?}\n{}", cluster.logs());
}
