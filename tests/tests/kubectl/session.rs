//! How the tests speak to kubectl: each group in a namespace of its own, every call with a bound; and the objects that
//! several groups use.

use super::*;

/// What a user types behind `kubectl`, in one namespace.
pub struct Session<'a> {
    pub cluster: &'a Cluster,
    pub kubectl: Kubectl,
    pub namespace: String,
}

/// Splits a command line at blanks, but not within single quotes, as a shell does.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None, false);
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_with(String::new).push(other),
        }
    }
    words.extend(word);
    words
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl<'a> Session<'a> {
    pub fn new(cluster: &'a Cluster, namespace: &str) -> Session<'a> {
        let session = Session {
            cluster,
            kubectl: cluster.kubectl(0),
            namespace: namespace.to_owned(),
        };
        if namespace != "default" {
            session.run(&format!("create namespace {namespace}"));
        }
        session
    }

    /// kubectl, which `timeout` ends when it hangs.
    pub fn command(&self, line: &str) -> Command {
        let kubectl = self.kubectl.command();
        let mut command = Command::new("timeout");
        command.arg("60").arg(kubectl.get_program()).args(kubectl.get_args());
        command.envs(kubectl.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["--namespace", &self.namespace]).args(words(line));
        command
    }

    pub fn output(&self, line: &str, input: &str) -> Output {
        let mut command = self.command(line);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program `timeout` (coreutils) runs");
        // A command that reads no input may have ended already.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }

    /// What a command prints; it must succeed. `input` is its standard input.
    pub fn feed(&self, line: &str, input: &str) -> String {
        let output = self.output(line, input);
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "kubectl {line} ended with {}:\n{printed}{errors}",
            output.status
        );
        printed
    }

    pub fn run(&self, line: &str) -> String {
        self.feed(line, "")
    }

    /// Runs a command and checks that it prints a part.
    pub fn says(&self, line: &str, part: &str) -> String {
        let printed = self.run(line);
        assert!(
            printed.contains(part),
            "kubectl {line} did not print {part:?} but:\n{printed}"
        );
        printed
    }

    /// The same with a standard input.
    pub fn says_fed(&self, line: &str, input: &str, part: &str) {
        let printed = self.feed(line, input);
        assert!(
            printed.contains(part),
            "kubectl {line} did not print {part:?} but:\n{printed}"
        );
    }

    /// Runs a command that must fail, and checks what it complains of.
    pub fn refused(&self, line: &str, input: &str, part: &str) {
        let output = self.output(line, input);
        let errors = text(&output.stderr);
        assert!(
            !output.status.success(),
            "kubectl {line} succeeded:\n{}",
            text(&output.stdout)
        );
        assert!(
            errors.contains(part),
            "kubectl {line} did not complain of {part:?} but:\n{errors}"
        );
    }

    pub fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.run(&format!("get {what} -o json"))).expect("kubectl prints JSON")
    }

    /// One value by a JSONPath.
    pub fn value(&self, what: &str, path: &str) -> String {
        self.run(&format!("get {what} -o 'jsonpath={path}'"))
    }

    /// Waits until a value is what is expected.
    pub fn await_value(&self, what: &str, path: &str, expected: &str) {
        wait_for(&format!("{path} of {what} is {expected:?}"), SOON, || {
            let found = self.value(what, path);
            if found == expected { Ok(()) } else { Err(found) }
        });
    }

    /// Starts a command that goes on until it is dropped.
    pub fn follow(&self, line: &str) -> Following {
        Following::start(self.command(line))
    }

    /// A request of our own client: code and reason of a refusal, or the answer.
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, (u16, String, String)> {
        let client = self.cluster.client(0).expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let answer = runtime.block_on(async {
            let request = client.request(method, path, "application/json", "application/json", body);
            tokio::time::timeout(SOON, request).await.expect("an answer in time")
        });
        answer.map_err(|error| match error {
            ClientError::Refused { code, reason, message } => (code, reason, message),
            other => panic!("{method} {path}: {other}"),
        })
    }
}

/// A Deployment of busybox containers that stop at once when asked.
pub fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: main\n        image: actorium.local/busybox:1\n        \
         command: [sh, -c, 'trap exit TERM; echo started; while true; do sleep 0.1; done']\n        ports: [{{containerPort: 80}}]\n"
    )
}

pub fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: main\n    image: actorium.local/busybox:1\n    command: [sh, -c, '{script}']\n"
    )
}

pub fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: \"{value}\", other: fixed}}\n")
}
