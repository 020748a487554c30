//! What a pod is promised, on a real cluster of two nodes: what its containers share, what they are given, what confines
//! them, how they end, what is told of them, how they are reached, and that nothing of them remains.
//!
//! One cluster carries all checks, and the pods are applied together, so that the run stays short. A check that fails does
//! not hide the others: the test names all that failed.

mod running;
mod surroundings;
mod user_namespaces;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::remains::pids_in_group;
use tests::{Cluster, Kubectl, wait_for};

use surroundings::{network, nothing_remains, pods_reach_each_other, unschedulable_pods_say_why};

const SOON: Duration = Duration::from_secs(30);

/// A pod of one busybox container that runs a script; `spec` are more lines of the pod's, `container` of the container's.
/// All of them name the cluster on their command line, so that their processes can be told from others'.
fn pod(name: &str, script: &str, spec: &str, container: &str) -> String {
    let script: String = script.lines().map(|line| format!("\n      {}", line.trim())).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{}  \
         containers:\n  - name: main\n    image: actorium.local/busybox:1\n{}    command:\n    - sh\n    - -c\n    - |{script}\n",
        indented(spec, 2),
        indented(container, 4),
    )
}

fn indented(text: &str, by: usize) -> String {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("{:by$}{line}\n", ""))
        .collect()
}

fn status(cluster: &Cluster, name: &str) -> Result<Value, String> {
    Ok(cluster.read(&format!("/api/v1/namespaces/default/pods/{name}"))?["status"].clone())
}

/// Waits until something holds of a pod's status.
fn await_status(cluster: &Cluster, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let check = || {
        let status = status(cluster, name)?;
        if holds(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    };
    wait_for(&format!("pod {name} {what}"), SOON, check).0
}

fn await_phase(cluster: &Cluster, name: &str, phase: &str) -> Value {
    await_status(cluster, name, &format!("is {phase}"), |status| status["phase"] == phase)
}

/// Waits until the log of a pod contains all parts, and returns it.
fn await_log(kubectl: &Kubectl, arguments: &str, parts: &[&str]) -> String {
    let check = || {
        let output = kubectl.output(&format!("logs {arguments}"));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if parts.iter().all(|part| text.contains(part)) {
            Ok(text)
        } else {
            Err(text)
        }
    };
    wait_for(&format!("{parts:?} in the log of {arguments}"), SOON, check).0
}

/// Waits for an event of a pod whose message contains a part.
fn await_event(cluster: &Cluster, pod: &str, reason: &str, part: &str) {
    let check = || {
        let events = cluster.read("/api/v1/namespaces/default/events")?;
        let of_pod = |event: &&Value| event["involvedObject"]["name"] == pod;
        let all: Vec<&Value> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(of_pod)
            .collect();
        let is_it =
            |event: &&&Value| event["reason"] == reason && event["message"].as_str().unwrap_or_default().contains(part);
        if all.iter().any(|event| is_it(&event)) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    };
    wait_for(&format!("an event {reason} of {pod} with {part:?}"), SOON, check);
}

fn container(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

/// Everything that is applied at the beginning.
fn first_pods(near: &str) -> String {
    [
        SHARED.to_owned(),
        CONFIGURATION.to_owned(),
        confined(),
        endings(),
        limits(),
        logging(),
        network(near),
    ]
    .concat()
}

const SHARED: &str = r#"
---
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  hostname: common-name
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: scratch, emptyDir: {}}
  initContainers:
  - name: one
    image: actorium.local/busybox:1
    command: [sh, -c, "sleep 0.5; echo first >> /scratch/order"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: two
    image: actorium.local/busybox:1
    command: [sh, -c, "echo second >> /scratch/order; hostname > /scratch/name-of-two"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
  - name: serves
    image: actorium.local/busybox:1
    command:
    - sh
    - -c
    - |
      echo told > /dev/shm/word
      for kind in ipc net uts mnt pid; do readlink /proc/self/ns/$kind; done > /scratch/namespaces
      hostname > /scratch/name
      exec httpd -f -p 127.0.0.1:8080 -h /scratch
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: asks
    image: actorium.local/busybox:1
    command:
    - sh
    - -c
    - |
      until wget -q -O /tmp/name http://127.0.0.1:8080/name && test -s /tmp/name; do sleep 0.1; done
      echo "order: $(tr '\n' ' ' < /seen/order)"
      echo "names: $(cat /tmp/name) $(hostname) $(cat /seen/name-of-two)"
      for kind in ipc net uts mnt pid; do readlink /proc/self/ns/$kind; done > /tmp/namespaces
      echo "apart: $(diff /seen/namespaces /tmp/namespaces | sed -n 's/^+\([a-z]*\):.*/\1/p' | tr '\n' ' ')"
      echo "memory: $(cat /dev/shm/word)"
      touch /seen/mine 2>/dev/null || echo "seen is read-only"
      touch /tmp/mine && echo asked
      exec sleep 1000
    volumeMounts: [{name: scratch, mountPath: /seen, readOnly: true}]
"#;

fn containers_share(cluster: &Cluster) {
    let log = await_log(&cluster.kubectl(0), "shared -c asks", &["asked"]);
    assert!(
        log.contains("order: first second \n"),
        "init containers did not run once each and in order: {log}"
    );
    assert!(log.contains("names: common-name common-name common-name\n"), "{log}");
    // Of the five namespaces that both looked at, those of network, IPC and hostname are one.
    assert!(log.contains("apart: mnt pid \n"), "{log}");
    assert!(log.contains("memory: told\n"), "/dev/shm is not shared: {log}");
    assert!(log.contains("seen is read-only\n"), "{log}");
    let status = await_status(cluster, "shared", "has all containers ready", |status| {
        let all = status["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.len() == 2 && all.iter().all(|container| container["ready"] == true)
    });
    for init in status["initContainerStatuses"].as_array().expect("two init containers") {
        assert_eq!(init["state"]["terminated"]["reason"], "Completed", "{init}");
    }
    let refused = cluster.kubectl(0).refused("logs shared -c none");
    assert!(
        refused.contains("container none is not valid for pod shared"),
        "{refused}"
    );
}

const CONFIGURATION: &str = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, shape: "a round\nthing"}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {word: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: environment, labels: {tier: test}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: actorium.local/busybox:1
    command: [sh, -c, "echo args:$0,$1; env", "$(COLOUR)", "$(NONE)"]
    envFrom:
    - {prefix: ALL_, configMapRef: {name: settings}}
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: key, key: word}}}
    - {name: ABSENT, valueFrom: {secretKeyRef: {name: key, key: absent, optional: true}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: BOTH, value: "$(POD) is $(COLOUR), $$(POD)"}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    resources: {limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: no-settings}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: actorium.local/busybox:1
    command: [sh, -c, "echo late=$LATE; exec sleep 1000"]
    env: [{name: LATE, valueFrom: {configMapKeyRef: {name: late, key: word}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: live}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: settings, configMap: {name: settings, items: [{key: colour, path: deep/colour}]}}
  - {name: key, secret: {secretName: key, defaultMode: 0400}}
  containers:
  - name: main
    image: actorium.local/busybox:1
    command:
    - sh
    - -c
    - |
      echo "mode $(stat -L -c %a /key/word)"
      (echo x > /settings/deep/colour) 2>/dev/null || echo "settings are read-only"
      while true; do
        now="colour=$(cat /settings/deep/colour) word=$(cat /key/word)"
        test "$now" = "$before" || echo "$now"
        before=$now
        sleep 0.2
      done
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: key, mountPath: /key}
"#;

fn the_environment_is_given(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let status = await_phase(cluster, "environment", "Succeeded");
    let log = kubectl.run("logs environment");
    let address = status["podIP"].as_str().expect("a pod has an address");
    let node = kubectl.get("pod environment")["spec"]["nodeName"]
        .as_str()
        .expect("it was bound")
        .to_owned();
    let wanted = [
        "args:blue,$(NONE)".to_owned(),
        "COLOUR=blue".into(),
        "WORD=sesame".into(),
        "POD=environment".into(),
        "TIER=test".into(),
        format!("ADDRESS={address}"),
        format!("NODE={node}"),
        "BOTH=environment is blue, $(POD)".into(),
        "MEMORY=64".into(),
        "ALL_colour=blue".into(),
        "ALL_shape=a round".into(),
        "HOSTNAME=environment".into(),
        "KUBERNETES_SERVICE_PORT=443".into(),
    ];
    for line in wanted {
        assert!(log.lines().any(|found| found == line), "{line} is not in\n{log}");
    }
    assert!(!log.contains("ABSENT"), "{log}");

    // What does not exist is named, and used as soon as it exists.
    let status = await_status(cluster, "no-settings", "waits", |status| {
        container(status)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    assert_eq!(
        container(&status)["state"]["waiting"]["message"],
        "configmap \"late\" not found"
    );
    kubectl.run("create configmap late --from-literal=word=now");
    await_log(&kubectl, "no-settings", &["late=now"]);
}

fn volumes_follow_their_objects(cluster: &Cluster) {
    let kubectl = cluster.kubectl(1);
    let log = await_log(&kubectl, "live", &["colour=blue word=sesame"]);
    assert!(
        log.contains("mode 400\n") && log.contains("settings are read-only"),
        "{log}"
    );
    let begun = Instant::now();
    kubectl.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: green}\n");
    kubectl.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {word: mellon}\n");
    await_log(&kubectl, "live", &["colour=green word=mellon\n"]);
    println!(
        "measured: kubectl apply of a ConfigMap and a Secret to both seen in a running pod: {} ms",
        begun.elapsed().as_millis()
    );
}

fn confined() -> String {
    let script = "
        id
        cat /proc/self/status
        touch /not-here 2>&1 || true
        touch /scratch/here && stat -c 'owner %u:%g' /scratch/here
        echo done";
    let user = "
securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, runAsNonRoot: true}
restartPolicy: Never
volumes: [{name: scratch, emptyDir: {}}]";
    let locked = "
volumeMounts: [{name: scratch, mountPath: /scratch}]
securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}";
    let default = "
cat /proc/self/status; echo files: $(ulimit -Sn)
for place in /tmp /dev /dev/shm; do mknod $place/disk b 254 0 && head -c 1 $place/disk 2>&1; done; mount -t tmpfs none /mnt 2>&1; unshare -U true 2>&1
(echo 1 > /proc/sys/kernel/panic) 2>&1; ls /proc/1/root/ > /dev/null && echo done";
    [
        pod("confined", script, user, locked),
        pod("default-confined", default, "restartPolicy: Never", ""),
        pod("must-not-be-root", "id", "securityContext: {runAsNonRoot: true}", ""),
    ]
    .concat()
}

fn containers_are_confined(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    await_phase(cluster, "confined", "Succeeded");
    let log = kubectl.run("logs confined");
    let field = |log: &str, name: &str| -> String {
        let line = log
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in {log}"));
        line[name.len()..].trim().to_owned()
    };
    assert!(log.contains("uid=1000 gid=3000"), "{log}");
    assert!(field(&log, "Groups:").split(' ').any(|group| group == "2000"), "{log}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(&log, set), "0000000000000000", "{set} {log}");
    }
    assert_eq!(
        (field(&log, "Seccomp:"), field(&log, "NoNewPrivs:")),
        ("2".to_owned(), "1".to_owned())
    );
    assert!(log.contains("/not-here: Read-only file system"), "{log}");
    assert!(
        log.contains("owner 1000:2000"),
        "the volume's group is not the files': {log}"
    );

    await_phase(cluster, "default-confined", "Succeeded");
    let log = kubectl.run("logs default-confined");
    assert_eq!(field(&log, "Seccomp:"), "2");
    // The fourteen that every container engine gives.
    assert_eq!(
        (field(&log, "CapEff:"), field(&log, "CapBnd:")),
        ("00000000a80425fb".to_owned(), "00000000a80425fb".to_owned())
    );
    for refused in [
        "head: /tmp/disk: Permission denied",
        "head: /dev/disk: Permission denied",
        "head: /dev/shm/disk: Permission denied",
        "mount: permission denied",
        "unshare(0x10000000): Operation not permitted",
    ] {
        assert!(log.contains(refused), "{refused} is not in\n{log}");
    }
    assert_eq!(field(&log, "files:"), "1024", "the node's own limit is not its pods'");
    assert!(log.contains("/proc/sys/kernel/panic: Read-only file system"), "{log}");

    let status = await_status(cluster, "must-not-be-root", "is refused", |status| {
        container(status)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = container(&status)["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(message.contains("runAsNonRoot"), "{message}");
}

fn endings() -> String {
    let retries = "
        if test -e /scratch/again; then echo attempt two; exit 0; fi
        touch /scratch/again
        echo attempt one
        exit 4";
    let scratch = "restartPolicy: OnFailure\nvolumes: [{name: scratch, emptyDir: {}}]";
    let no_command = "
---
apiVersion: v1
kind: Pod
metadata: {name: no-command}
spec:
  restartPolicy: Never
  containers: [{name: main, image: \"actorium.local/busybox:1\", command: [/no/such/program]}]
";
    [
        pod("succeeds", "echo fine", "restartPolicy: Never", ""),
        pod(
            "fails",
            "echo sorry > /dev/termination-log; exit 3",
            "restartPolicy: Never",
            "",
        ),
        pod(
            "retries",
            retries,
            scratch,
            "volumeMounts: [{name: scratch, mountPath: /scratch}]",
        ),
        pod("loops", "cut -d' ' -f1 /proc/uptime; exit 1", "", ""),
        no_command.to_owned(),
    ]
    .concat()
}

fn restart_policies_decide_how_pods_end(cluster: &Cluster) {
    let kubectl = cluster.kubectl(1);
    let status = await_phase(cluster, "succeeds", "Succeeded");
    assert_eq!(container(&status)["state"]["terminated"]["exitCode"], 0);
    assert_eq!(container(&status)["state"]["terminated"]["reason"], "Completed");
    let status = await_phase(cluster, "fails", "Failed");
    let ended = &container(&status)["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&Value::from(3), &Value::from("Error")),
        "{ended}"
    );
    assert_eq!(ended["message"].as_str().map(str::trim), Some("sorry"), "{ended}");
    let status = await_phase(cluster, "retries", "Succeeded");
    assert_eq!(container(&status)["restartCount"], 1, "{status}");
    assert_eq!(container(&status)["lastState"]["terminated"]["exitCode"], 4, "{status}");
    assert_eq!(kubectl.run("logs retries"), "attempt two\n");
    assert_eq!(kubectl.run("logs retries --previous"), "attempt one\n");
    let refused = kubectl.refused("logs succeeds --previous");
    assert!(
        refused.contains("previous terminated container \"main\" in pod \"succeeds\" not found"),
        "{refused}"
    );

    let status = await_phase(cluster, "no-command", "Failed");
    let ended = &container(&status)["state"]["terminated"];
    let message = ended["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("/no/such/program") && message.to_lowercase().contains("no such file"),
        "{ended}"
    );
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&Value::from(128), &Value::from("StartError")),
        "{ended}"
    );

    let status = await_status(cluster, "loops", "backs off", |status| {
        container(status)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let message = container(&status)["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        message.starts_with("back-off 10s restarting failed container=main pod=loops_default("),
        "{message}"
    );
    await_event(cluster, "loops", "BackOff", "restarting failed container main");
}

/// A restart is not before the time is over that was announced, and not long after. The container itself says when it ran:
/// the status has whole seconds only.
fn a_crash_loop_backs_off_as_long_as_it_says(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let started_at = |arguments: &str| -> Result<f64, String> {
        let printed = kubectl.run(&format!("logs loops {arguments}"));
        printed.trim().parse().map_err(|_| printed)
    };
    let restarts = || -> Result<u32, String> {
        let status = status(cluster, "loops")?;
        Ok(container(&status)["restartCount"].as_u64().unwrap_or_default() as u32)
    };
    // The first restart waits for nothing, the second for ten seconds, and so on.
    let ((count, waited), _) = wait_for("a second restart, and none meanwhile", SOON, || {
        let count = restarts()?;
        let waited = started_at("")? - started_at("--previous")?;
        if count >= 2 && restarts()? == count {
            Ok((count, waited))
        } else {
            Err(format!("{count} restarts"))
        }
    });
    let announced = f64::from(10 << (count - 2));
    assert!(
        (announced..announced + 2.0).contains(&waited),
        "{waited} s before restart {count}, {announced} s were announced"
    );
    await_status(cluster, "loops", "backs off longer", |status| {
        let count = container(status)["restartCount"].as_u64().unwrap_or_default();
        let message = container(status)["state"]["waiting"]["message"].as_str();
        let next = format!("back-off {}s restarting failed container=main", 10 << (count - 1));
        message.is_some_and(|message| message.starts_with(&next))
    });
}

fn limits() -> String {
    let limited = "resources: {requests: {cpu: 100m}, limits: {cpu: 250m, memory: 64Mi}}";
    let hungry = "resources: {limits: {memory: 32Mi}}";
    [
        pod("limited", "echo up; exec sleep 1000", "", limited),
        pod("hungry", "echo eating; exec tail /dev/zero", "", hungry),
    ]
    .concat()
}

/// The value of a control file of the group of a pod's first process with this command line.
fn control_file(pids: &[u32], controller: &str, file: &str) -> String {
    let group = |pid: &u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process lives");
        let of = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            controllers.split(',').any(|one| one == controller).then_some(path)
        };
        groups.lines().find_map(of).or_else(|| {
            groups
                .lines()
                .find_map(|line| Some(line.strip_prefix("0::")?.to_owned()))
        })
    };
    let path = group(pids.first().expect("the pod has a process")).expect("the process is in a group");
    let roots = [format!("/sys/fs/cgroup/{controller}"), "/sys/fs/cgroup".to_owned()];
    let found = roots
        .iter()
        .map(|root| PathBuf::from(format!("{root}{path}/{file}")))
        .find(|path| path.exists());
    let found = found.unwrap_or_else(|| panic!("no {file} for {controller} in {path}"));
    std::fs::read_to_string(found)
        .expect("a control file is read")
        .trim()
        .to_owned()
}

/// Processes that belong to a pod: those in a cgroup that names it.
fn pids_of_pod(cluster: &Cluster, name: &str) -> Vec<u32> {
    let uid = cluster.kubectl(0).get(&format!("pod {name}"))["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    pids_in_group(&uid)
}

fn limits_hold(cluster: &Cluster) {
    await_phase(cluster, "limited", "Running");
    let pids = pids_of_pod(cluster, "limited");
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert_eq!(control_file(&pids, "cpu", "cpu.max"), "25000 100000");
        assert_eq!(control_file(&pids, "memory", "memory.max"), "67108864");
    } else {
        assert_eq!(control_file(&pids, "cpu", "cpu.cfs_quota_us"), "25000");
        assert_eq!(control_file(&pids, "cpu", "cpu.shares"), "102");
        assert_eq!(control_file(&pids, "memory", "memory.limit_in_bytes"), "67108864");
    }
    let most: u64 = control_file(&pids, "pids", "pids.max")
        .parse()
        .expect("processes are limited");
    assert!((100..=65_536).contains(&most), "{most}");

    let status = await_status(cluster, "hungry", "was killed and started again", |status| {
        container(status)["restartCount"].as_u64() >= Some(1)
            && container(status)["lastState"]["terminated"]["exitCode"] == 137
    });
    assert_eq!(
        container(&status)["lastState"]["terminated"]["reason"],
        "OOMKilled",
        "{status}"
    );
    let status = await_status(cluster, "hungry", "backs off", |status| {
        container(status)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(
        container(&status)["lastState"]["terminated"]["reason"],
        "OOMKilled",
        "{status}"
    );
}

fn logging() -> String {
    let graceful = "
        trap 'echo told to stop; sleep 0.3; echo stopped; exit 0' TERM
        echo ready
        while true; do sleep 0.1; done";
    let stubborn = "
        trap '' TERM
        echo ready
        while true; do sleep 1; done";
    [
        pod(
            "writes",
            "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.3; done; echo err >&2",
            "restartPolicy: Never",
            "",
        ),
        pod("graceful", graceful, "", "")
            .replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 20"),
        pod("stubborn", stubborn, "", "")
            .replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 2"),
    ]
    .concat()
}

/// Starts `kubectl logs -f`; `finish` gives what it printed.
fn follow(kubectl: &Kubectl, name: &str) -> std::process::Child {
    let mut command = kubectl.command();
    command
        .args(["logs", "-f", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("kubectl runs")
}

/// Waits for the end of a `kubectl logs -f`, and kills it when it does not end.
fn finish(mut child: std::process::Child) -> String {
    let begun = Instant::now();
    while child.try_wait().expect("its state is read").is_none() {
        if begun.elapsed() > SOON {
            child.kill().expect("it can be killed");
            let output = child.wait_with_output().expect("it ends");
            panic!(
                "kubectl logs -f did not end with the pod; it printed:\n{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("it ended");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn logs_are_told(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    let all = "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nerr\n";
    await_log(&kubectl, "writes", &["line 1"]);
    assert_eq!(finish(follow(&kubectl, "writes")), all);
    assert_eq!(kubectl.run("logs writes"), all);
    assert_eq!(kubectl.run("logs writes --tail=2"), "line 6\nerr\n");
    assert_eq!(kubectl.run("logs writes --tail=0"), "");
    assert_eq!(kubectl.run("logs writes --limit-bytes=9"), "line 1\nli");
    assert_eq!(kubectl.run("logs writes --since=1h"), all);
    let stamped = kubectl.run("logs writes --timestamps --tail=1");
    let (time, word) = stamped.trim().split_once(' ').expect("a time and a line");
    assert!(time.len() >= 20 && time.ends_with('Z') && word == "err", "{stamped}");
    // kubectl sends whole seconds.
    let since = kubectl.run(&format!("logs writes --since-time={time}"));
    assert!(since.ends_with("err\n") && !since.contains("line 1\n"), "{since}");
}

fn pods_stop_gracefully(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    await_log(&kubectl, "graceful", &["ready"]);
    await_log(&kubectl, "stubborn", &["ready"]);
    let uids = ["graceful", "stubborn"].map(|name| {
        kubectl.get(&format!("pod {name}"))["metadata"]["uid"]
            .as_str()
            .expect("a uid")
            .to_owned()
    });

    let following = follow(&kubectl, "graceful");
    let begun = Instant::now();
    kubectl.run("delete pod graceful");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(8),
        "deleted after {took:?}"
    );
    let log = finish(following);
    assert!(log.contains("told to stop\nstopped\n"), "{log}");

    let begun = Instant::now();
    kubectl.run("delete pod stubborn");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(1_900) && took < Duration::from_secs(8),
        "deleted after {took:?}"
    );
    for uid in uids {
        assert_eq!(pids_in_group(&uid), Vec::<u32>::new(), "processes outlived their pod");
    }
}

#[test]
fn pods_are_given_what_they_are_promised_and_leave_nothing() {
    let cluster = Cluster::start(21, 2);
    for index in 0..2 {
        cluster.import_images(index);
    }
    cluster.kubectl(0).apply(&first_pods(&cluster.nodes[0].name));
    let checks: [(&str, fn(&Cluster)); 11] = [
        ("containers_share", containers_share),
        ("logs_are_told", logs_are_told),
        ("the_environment_is_given", the_environment_is_given),
        ("volumes_follow_their_objects", volumes_follow_their_objects),
        ("containers_are_confined", containers_are_confined),
        (
            "restart_policies_decide_how_pods_end",
            restart_policies_decide_how_pods_end,
        ),
        ("limits_hold", limits_hold),
        ("pods_reach_each_other", pods_reach_each_other),
        ("pods_stop_gracefully", pods_stop_gracefully),
        ("unschedulable_pods_say_why", unschedulable_pods_say_why),
        (
            "a_crash_loop_backs_off_as_long_as_it_says",
            a_crash_loop_backs_off_as_long_as_it_says,
        ),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks
        .into_iter()
        .chain([("nothing_remains", nothing_remains as fn(&Cluster))])
    {
        let begun = Instant::now();
        // The panic's message is printed where it happens; what a check leaves half done is in the cluster, not in memory.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&cluster)));
        println!("measured: {name}: {} ms", begun.elapsed().as_millis());
        failed.extend(outcome.is_err().then_some(name));
    }
    assert!(failed.is_empty(), "failed: {failed:?}\n{}", cluster.logs());
}
