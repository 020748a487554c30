"""What a Python program does to a cluster, with the unmodified package `kubernetes`: its typed client and its
DynamicClient, the same checks for both, kind by kind. One line per check, in order: `ok CLIENT KIND CHECK`, or
`FAILED CLIENT KIND CHECK` with the reason on standard error. Ends with the number of failures.

Called by main.rs with KUBECONFIG. Everything that it makes is in namespaces of its own.
"""

import base64
import sys
import time
import traceback

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException

BOUND_S = 30
IMAGE = "actorium.local/busybox:1"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


def wait_for(what, check):
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + BOUND_S
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {BOUND_S} s")
        time.sleep(0.02)


def equal(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def refused(status, reason, call):
    """The call must be refused with this status and this reason in the Status object of the body."""
    try:
        answer = call()
    except ApiException as error:
        equal(error.status, status, error.body)
        if reason not in str(error.body):
            raise AssertionError(f"{reason} is not in {error.body}") from error
        return error
    raise AssertionError(f"not refused: {answer}")


class Kind:
    """A kind: how one is made, what of it is changed, and when nobody else changes it any more."""

    def __init__(self, plural, api_version, kind, snake, make, path, value, settled=lambda it: True):
        self.plural, self.api_version, self.kind, self.snake = plural, api_version, kind, snake
        self.make, self.path, self.value, self.settled = make, path, value, settled

    def body(self, name, labels):
        body = {"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": name, "labels": labels}}
        return {**body, **self.make(name)}

    def change(self, value):
        """A merge patch that sets the changing field."""
        for word in reversed(self.path):
            value = {word: value}
        return value

    def pointer(self):
        return "".join("/" + word for word in self.path)


def container(script="exec sleep 1000"):
    return {"name": "main", "image": IMAGE, "command": ["sh", "-c", script], "env": [{"name": "FIRST", "value": "1"}]}


def at(*path):
    def value(it):
        for word in path:
            it = (it or {}).get(word)
        return it

    return value


def pod_is_ready(it):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in it.get("status", {}).get("conditions") or [])


def deployment_is_observed(it):
    return it.get("status", {}).get("observedGeneration") == it["metadata"]["generation"]


NOTE = ("metadata", "annotations", "note")
TEMPLATE_NOTE = ("spec", "template", *NOTE)
KINDS = [
    Kind("namespaces", "v1", "Namespace", "namespace", lambda name: {}, NOTE, at(*NOTE)),
    Kind(
        "configmaps", "v1", "ConfigMap", "config_map", lambda name: {"data": {"key": "0"}}, ("data", "key"), at("data", "key")
    ),
    Kind(
        "secrets",
        "v1",
        "Secret",
        "secret",
        lambda name: {"type": "Opaque", "stringData": {"key": "0"}},
        ("stringData", "key"),
        lambda it: base64.b64decode(it["data"]["key"]).decode(),
    ),
    Kind(
        "services",
        "v1",
        "Service",
        "service",
        lambda name: {"spec": {"selector": {"app": "0"}, "ports": [{"name": "first", "port": 80}]}},
        ("spec", "selector", "app"),
        at("spec", "selector", "app"),
    ),
    Kind(
        "pods",
        "v1",
        "Pod",
        "pod",
        lambda name: {"spec": {"terminationGracePeriodSeconds": 0, "containers": [container()]}},
        NOTE,
        at(*NOTE),
        pod_is_ready,
    ),
    Kind(
        "deployments",
        "apps/v1",
        "Deployment",
        "deployment",
        lambda name: {
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}, "annotations": {"note": "0"}},
                    "spec": {"containers": [container()]},
                },
            }
        },
        TEMPLATE_NOTE,
        at(*TEMPLATE_NOTE),
        deployment_is_observed,
    ),
]


class Typed:
    """The generated client. What it answers are its models: they have been validated, and are turned back."""

    name = "typed"

    def __init__(self, api_client):
        self.api_client = api_client
        self.apis = {"v1": client.CoreV1Api(api_client), "apps/v1": client.AppsV1Api(api_client)}

    def plain(self, model):
        return self.api_client.sanitize_for_serialization(model)

    def function(self, kind, verb):
        name = f"{verb}_namespace" if kind.plural == "namespaces" else f"{verb}_namespaced_{kind.snake}"
        return getattr(self.apis[kind.api_version], name)

    @staticmethod
    def place(kind, namespace, *first):
        return list(first) if kind.plural == "namespaces" else [*first, namespace]

    def create(self, kind, namespace, body):
        return self.plain(self.function(kind, "create")(*self.place(kind, namespace), body))

    def read(self, kind, namespace, name):
        return self.plain(self.function(kind, "read")(*self.place(kind, namespace, name)))

    def list(self, kind, namespace, **options):
        return self.plain(self.function(kind, "list")(*self.place(kind, namespace), **options))

    def patch(self, kind, namespace, name, body, content_type):
        call = self.function(kind, "patch")
        return self.plain(call(*self.place(kind, namespace, name), body, _content_type=content_type))

    def apply(self, kind, namespace, body, manager, force=None):
        call, name = self.function(kind, "patch"), body["metadata"]["name"]
        options = {"field_manager": manager, "force": force, "_content_type": APPLY_PATCH}
        return self.plain(call(*self.place(kind, namespace, name), body, **options))

    def replace(self, kind, namespace, name, change):
        """Reads the model, lets it be changed, and sends it back; returns how to send the same again."""
        model = self.function(kind, "read")(*self.place(kind, namespace, name))
        change(model.metadata.labels)
        send = lambda: self.plain(self.function(kind, "replace")(*self.place(kind, namespace, name), model))
        return send(), send

    def delete(self, kind, namespace, name):
        self.function(kind, "delete")(*self.place(kind, namespace, name))

    def watch(self, kind, namespace, resource_version, selector):
        stream = watch.Watch().stream(
            self.function(kind, "list"),
            *self.place(kind, namespace),
            resource_version=resource_version,
            label_selector=selector,
            timeout_seconds=BOUND_S,
        )
        for event in stream:
            yield event["type"], self.plain(event["object"])


class Dynamic:
    """The client that learns the API from the cluster's discovery."""

    name = "dynamic"

    def __init__(self, api_client):
        self.client = dynamic.DynamicClient(api_client)

    def resource(self, kind):
        return self.client.resources.get(api_version=kind.api_version, kind=kind.kind)

    @staticmethod
    def place(kind, namespace):
        return {} if kind.plural == "namespaces" else {"namespace": namespace}

    def create(self, kind, namespace, body):
        return self.resource(kind).create(body=body, **self.place(kind, namespace)).to_dict()

    def read(self, kind, namespace, name):
        return self.resource(kind).get(name=name, **self.place(kind, namespace)).to_dict()

    def list(self, kind, namespace, **options):
        return self.resource(kind).get(**self.place(kind, namespace), **options).to_dict()

    def patch(self, kind, namespace, name, body, content_type):
        resource = self.resource(kind)
        return resource.patch(body=body, name=name, content_type=content_type, **self.place(kind, namespace)).to_dict()

    def apply(self, kind, namespace, body, manager, force=None):
        resource = self.resource(kind)
        options = {"field_manager": manager, "force_conflicts": force, **self.place(kind, namespace)}
        return resource.server_side_apply(body=body, **options).to_dict()

    def replace(self, kind, namespace, name, change):
        body = self.read(kind, namespace, name)
        change(body["metadata"]["labels"])
        send = lambda: self.resource(kind).replace(body=body, **self.place(kind, namespace)).to_dict()
        return send(), send

    def delete(self, kind, namespace, name):
        self.resource(kind).delete(name=name, **self.place(kind, namespace))

    def watch(self, kind, namespace, resource_version, selector):
        stream = self.resource(kind).watch(
            resource_version=resource_version, label_selector=selector, timeout=BOUND_S, **self.place(kind, namespace)
        )
        for event in stream:
            yield event["type"], event["raw_object"]


class OneKind:
    """The checks of one kind through one client."""

    def __init__(self, via, kind, namespace):
        self.via, self.kind, self.namespace = via, kind, namespace
        self.prefix = f"{via.name}-{kind.snake.replace('_', '-')}"
        self.labels = {"made-by": self.prefix}
        self.selector = f"made-by={self.prefix}"
        self.one = f"{self.prefix}-1"

    def named(self, number):
        return f"{self.prefix}-{number}"

    def read(self):
        return self.via.read(self.kind, self.namespace, self.one)

    def patch(self, body, content_type):
        return self.via.patch(self.kind, self.namespace, self.one, body, content_type)

    def settle(self):
        """Waits until the cluster itself has nothing more to write into the object."""
        wait_for(f"{self.one} settles", lambda: self.kind.settled(self.read()))

    def create(self):
        for number in range(1, 6):
            made = self.via.create(self.kind, self.namespace, self.kind.body(self.named(number), self.labels))
            equal(made["metadata"]["labels"]["made-by"], self.prefix)
            if not (made["metadata"]["uid"] and made["metadata"]["resourceVersion"]):
                raise AssertionError(f"no identity: {made}")
        body = self.kind.body(self.one, self.labels)
        refused(409, "AlreadyExists", lambda: self.via.create(self.kind, self.namespace, body))

    def get(self):
        found = self.read()
        equal((found["apiVersion"], found["kind"]), (self.kind.api_version, self.kind.kind))
        equal(found["metadata"]["name"], self.one)
        if self.kind.path != NOTE:
            equal(self.kind.value(found), "0")
        refused(404, "NotFound", lambda: self.via.read(self.kind, self.namespace, "none"))

    def list(self):
        names, versions, token, sizes = [], set(), None, []
        while True:
            options = {"label_selector": self.selector, "limit": 2, "_continue": token}
            page = self.via.list(self.kind, self.namespace, **options)
            sizes.append(len(page["items"]))
            names.extend(item["metadata"]["name"] for item in page["items"])
            versions.add(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue")
            if not token:
                break
        equal(sizes, [2, 2, 1], "sizes of the pages")
        equal(names, [self.named(number) for number in range(1, 6)], "names in the order of keys")
        equal(len(versions), 1, f"all pages are of one state: {versions}")

    def watch(self):
        begin = self.via.list(self.kind, self.namespace, label_selector=self.selector)["metadata"]["resourceVersion"]
        name = f"{self.prefix}-seen"
        # All of it happens before the watch begins: the history is what is told.
        self.via.create(self.kind, self.namespace, self.kind.body(name, self.labels))
        mark = {"metadata": {"labels": {"mark": "1"}}}
        self.via.patch(self.kind, self.namespace, name, mark, MERGE_PATCH)
        self.via.delete(self.kind, self.namespace, name)
        seen, marked = [], False
        for change, it in self.via.watch(self.kind, self.namespace, begin, self.selector):
            if int(it["metadata"]["resourceVersion"]) <= int(begin):
                raise AssertionError(f"an event from before {begin}: {it}")
            if it["metadata"]["name"] != name:
                continue
            if change == "ADDED":
                equal("mark" in it["metadata"]["labels"], False, "the object as it was when it was added")
            marked = marked or it["metadata"]["labels"].get("mark") == "1"
            if not seen or seen[-1] != change:
                seen.append(change)
            if change == "DELETED":
                break
        equal(seen, ["ADDED", "MODIFIED", "DELETED"])
        equal(marked, True, "the label was seen")

    def json_patch(self):
        if self.kind.path == NOTE:
            first = [{"op": "add", "path": "/metadata/annotations", "value": {"note": "json"}}]
        else:
            first = [{"op": "add", "path": self.kind.pointer(), "value": "json"}]
            if self.kind.plural == "secrets":  # `stringData` is written and never stored: what is stored is patched
                first = [{"op": "replace", "path": "/data/key", "value": base64.b64encode(b"json").decode()}]
        equal(self.kind.value(self.patch(first, JSON_PATCH)), "json")
        wrong = [{"op": "test", "path": "/metadata/name", "value": "other"}]
        refused(422, "Invalid", lambda: self.patch(wrong, JSON_PATCH))

    def merge_patch(self):
        equal(self.kind.value(self.patch(self.kind.change("merged"), MERGE_PATCH)), "merged")
        before = self.read()["metadata"]["labels"]
        marked = self.patch({"metadata": {"labels": {"mark": "1"}}}, MERGE_PATCH)
        equal(marked["metadata"]["labels"], {**before, "mark": "1"})
        unmarked = self.patch({"metadata": {"labels": {"mark": None}}}, MERGE_PATCH)
        equal(unmarked["metadata"]["labels"], before, "null removes")

    def strategic_patch(self):
        if self.kind.plural == "services":
            after = self.patch({"spec": {"ports": [{"name": "second", "port": 81}]}}, STRATEGIC_PATCH)
            equal(sorted(port["name"] for port in after["spec"]["ports"]), ["first", "second"], "ports merge by port")
            return
        if self.kind.plural == "deployments":
            more = {"containers": [{"name": "main", "env": [{"name": "SECOND", "value": "2"}]}]}
            after = self.patch({"spec": {"template": {"spec": more}}}, STRATEGIC_PATCH)
            only = after["spec"]["template"]["spec"]["containers"]
            equal([one["image"] for one in only], [IMAGE], "containers merge by name")
            equal(sorted(one["name"] for one in only[0]["env"]), ["FIRST", "SECOND"], "variables merge by name")
            return
        self.patch({"metadata": {"annotations": {"before": "1"}}}, STRATEGIC_PATCH)
        only = {"$patch": "replace", "only": "1"}
        after = self.patch({"metadata": {"annotations": only}}, STRATEGIC_PATCH)
        equal(after["metadata"]["annotations"], {"only": "1"}, "the directive `$patch: replace`")

    def apply(self):
        def applied(value):
            head = {"apiVersion": self.kind.api_version, "kind": self.kind.kind}
            return {**head, "metadata": {"name": self.one, "labels": {"applied": value}}}

        via, kind, namespace = self.via, self.kind, self.namespace
        equal(via.apply(kind, namespace, applied("1"), "python")["metadata"]["labels"]["applied"], "1")
        error = refused(409, "Conflict", lambda: via.apply(kind, namespace, applied("2"), "second"))
        if '\\"python\\"' not in str(error.body) or ".metadata.labels.applied" not in str(error.body):
            raise AssertionError(f"the owner and the field are not named: {error.body}")
        after = via.apply(kind, namespace, applied("2"), "second", force=True)
        equal(after["metadata"]["labels"]["applied"], "2")
        managers = {entry["manager"] for entry in after["metadata"]["managedFields"] if entry["operation"] == "Apply"}
        equal("second" in managers, True, f"managers: {managers}")

    def replace(self):
        self.settle()
        after, again = self.via.replace(
            self.kind, self.namespace, self.one, lambda labels: labels.update(replaced="yes")
        )
        equal(after["metadata"]["labels"]["replaced"], "yes")
        error = refused(409, "Conflict", again)
        if "the object has been modified" not in str(error.body):
            raise AssertionError(f"the reason is not told: {error.body}")

    def delete(self):
        def absent(name):
            try:
                self.via.read(self.kind, self.namespace, name)
                return False
            except ApiException as error:
                equal(error.status, 404)
                return True

        for number in range(1, 6):
            self.via.delete(self.kind, self.namespace, self.named(number))
        for number in range(1, 6):
            wait_for(f"{self.named(number)} goes", lambda: absent(self.named(number)))
        equal(self.via.list(self.kind, self.namespace, label_selector=self.selector)["items"], [])
        refused(404, "NotFound", lambda: self.via.delete(self.kind, self.namespace, self.one))

    CHECKS = ["create", "get", "list", "watch", "json_patch", "merge_patch", "strategic_patch", "apply", "replace", "delete"]


class Everything:
    """What only the dynamic client does: kinds that it finds at run time, their subresources, lists of anything, and errors by
    their classes."""

    CHECKS = ["search", "every_kind", "subresources", "dry_run", "pages", "errors", "bookmarks", "collection"]

    def __init__(self, api_client, namespace):
        self.client, self.namespace = dynamic.DynamicClient(api_client), namespace
        self.maps = self.client.resources.get(api_version="v1", kind="ConfigMap")

    def search(self):
        found = {it.kind for it in self.client.resources.search(group="apps")}
        if not {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ControllerRevision"} <= found:
            raise AssertionError(f"found {found}")
        by_short_name = self.client.resources.get(short_names=["deploy"])
        equal((by_short_name.kind, by_short_name.namespaced), ("Deployment", True))
        by_singular = self.client.resources.get(singular_name="configmap")
        equal(by_singular.name, "configmaps")
        try:
            self.client.resources.get(api_version="v1", kind="Nothing")
        except dynamic.exceptions.ResourceNotFoundError:
            return
        raise AssertionError("a kind that is not there was found")

    def every_kind(self):
        """Whatever discovery says can be listed can be listed, and says of itself what discovery said."""
        listed = 0
        for resource in self.client.resources.search():
            if type(resource) is not dynamic.resource.Resource or "list" not in resource.verbs:
                continue
            found = self.client.get(resource).to_dict()
            equal(found["apiVersion"], resource.group_version, resource.name)
            if not found["kind"].endswith("List"):
                raise AssertionError(f"{resource.name}: {found['kind']}")
            listed += 1
        if listed < 50:
            raise AssertionError(f"only {listed} kinds were found")

    def subresources(self):
        deployments = self.client.resources.get(api_version="apps/v1", kind="Deployment")
        spec = {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "scaled"}},
            "template": {"metadata": {"labels": {"app": "scaled"}}, "spec": {"containers": [container()]}},
        }
        deployments.create(namespace=self.namespace, body={"metadata": {"name": "scaled"}, "spec": spec})
        scale = deployments.scale.get(name="scaled", namespace=self.namespace)
        equal((scale.kind, scale.spec.replicas or 0), ("Scale", 0))
        body = {"spec": {"replicas": 1}}
        deployments.scale.patch(name="scaled", namespace=self.namespace, body=body, content_type=MERGE_PATCH)
        equal(deployments.get(name="scaled", namespace=self.namespace).spec.replicas, 1)
        body = {"status": {"conditions": [{"type": "Own", "status": "True"}]}}
        patched = deployments.status.patch(name="scaled", namespace=self.namespace, body=body, content_type=MERGE_PATCH)
        if "Own" not in {it.type for it in patched.status.conditions}:
            raise AssertionError(f"{patched.status}")
        deployments.delete(name="scaled", namespace=self.namespace, body={"propagationPolicy": "Foreground"})

    def dry_run(self):
        body = {"metadata": {"name": "dry"}, "data": {"a": "b"}}
        made = self.maps.create(namespace=self.namespace, body=body, dry_run="All")
        if not made.metadata.uid:
            raise AssertionError(f"{made}")
        refused(404, "NotFound", lambda: self.maps.get(name="dry", namespace=self.namespace))

    def pages(self):
        names = [f"page-{number}" for number in range(7)]
        for name in names:
            self.maps.create(namespace=self.namespace, body={"metadata": {"name": name, "labels": {"of": "pages"}}})
        found, token, version = [], None, None
        while True:
            options = {"_continue": token} if token else {}
            page = self.maps.get(namespace=self.namespace, label_selector="of=pages", limit=3, **options)
            version = version or page.metadata.resourceVersion
            equal(page.metadata.resourceVersion, version, "all pages show one instant")
            found += [it.metadata.name for it in page.items]
            token = page.metadata["continue"]
            if not token:
                break
            self.maps.delete(name=names[-1], namespace=self.namespace) if len(found) == 3 else None
        equal(found, names, "what was deleted between two pages is on its page still")

    def errors(self):
        exceptions = dynamic.exceptions
        name, namespace = "page-0", self.namespace
        stale = self.maps.get(name=name, namespace=namespace).to_dict()
        self.maps.patch(name=name, namespace=namespace, body={"data": {"a": "1"}}, content_type=MERGE_PATCH)
        for error, call in [
            (exceptions.NotFoundError, lambda: self.maps.get(name="none", namespace=namespace)),
            (exceptions.ConflictError, lambda: self.maps.create(namespace=namespace, body={"metadata": {"name": name}})),
            (exceptions.ConflictError, lambda: self.maps.replace(namespace=namespace, body=stale)),
            (exceptions.UnprocessibleEntityError, lambda: self.maps.create(namespace=namespace, body={"metadata": {"name": "No Name"}})),
            (exceptions.BadRequestError, lambda: self.maps.create(namespace=namespace, body={"metadata": {"name": "a"}, "data": [1]})),
        ]:
            try:
                answer = call()
            except error as caught:
                if not caught.summary():
                    raise AssertionError(f"{error} has no message: {caught.body}") from caught
                continue
            raise AssertionError(f"{error}: not raised but answered: {answer}")

    def bookmarks(self):
        """A watch that was asked for bookmarks gets one while nothing happens, from which another watch goes on."""
        kinds = []
        version = self.maps.get(namespace=self.namespace).metadata.resourceVersion
        options = {"namespace": self.namespace, "resource_version": version, "timeout": 5, "allow_watch_bookmarks": True}
        watching = watch.Watch()
        for event in self.maps.watch(watcher=watching, **options):
            kinds.append(event["type"])
            if event["type"] == "BOOKMARK":
                version = event["object"].metadata.resourceVersion
                break
        equal(kinds, ["BOOKMARK"])
        self.maps.create(namespace=self.namespace, body={"metadata": {"name": "after"}})
        for event in self.maps.watch(namespace=self.namespace, resource_version=version, timeout=BOUND_S):
            equal((event["type"], event["object"].metadata.name), ("ADDED", "after"))
            break

    def collection(self):
        self.maps.delete(namespace=self.namespace, label_selector="of=pages")
        equal(self.maps.get(namespace=self.namespace, label_selector="of=pages").items, [])
        equal(self.maps.get(name="after", namespace=self.namespace).metadata.name, "after", "others stay")


class Application:
    """A Deployment from models: waited for, its logs read, scaled, updated, removed."""

    CHECKS = ["rolls_out", "logs", "follow", "scale", "update", "dependents"]

    def __init__(self, api_client, namespace):
        self.core, self.apps = client.CoreV1Api(api_client), client.AppsV1Api(api_client)
        self.namespace = namespace

    def await_deployment(self, holds):
        """Follows the Deployment until something holds; the watch begins with what is there."""
        stream = watch.Watch().stream(
            self.apps.list_namespaced_deployment,
            self.namespace,
            field_selector="metadata.name=web",
            timeout_seconds=BOUND_S,
        )
        last = None
        for event in stream:
            last = event["object"]
            observed = last.status.observed_generation == last.metadata.generation
            if observed and holds(last):
                return last
        raise AssertionError(f"not within {BOUND_S} s: {last and last.status}")

    def pods(self):
        return self.core.list_namespaced_pod(self.namespace, label_selector="app=web").items

    def rolls_out(self):
        main = client.V1Container(
            name="main",
            image=IMAGE,
            command=["sh", "-c", "echo one; echo two; trap 'exit 0' TERM; while true; do sleep 0.1; done"],
            resources=client.V1ResourceRequirements(requests={"cpu": "10m"}, limits={"memory": "64Mi"}),
        )
        template = client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(labels={"app": "web"}),
            spec=client.V1PodSpec(containers=[main], termination_grace_period_seconds=2),
        )
        selector = client.V1LabelSelector(match_labels={"app": "web"})
        spec = client.V1DeploymentSpec(replicas=2, selector=selector, template=template)
        body = client.V1Deployment(
            api_version="apps/v1", kind="Deployment", metadata=client.V1ObjectMeta(name="web"), spec=spec
        )
        self.apps.create_namespaced_deployment(self.namespace, body)
        self.await_deployment(lambda it: it.status.available_replicas == 2)
        conditions = {one.type: one.status for one in self.apps.read_namespaced_deployment("web", self.namespace).status.conditions}
        equal((conditions.get("Available"), conditions.get("Progressing")), ("True", "True"))

    def logs(self):
        pod = self.pods()[0].metadata.name
        wait_for("both lines", lambda: self.core.read_namespaced_pod_log(pod, self.namespace) == "one\ntwo\n")
        equal(self.core.read_namespaced_pod_log(pod, self.namespace, tail_lines=1), "two\n")
        stamped = self.core.read_namespaced_pod_log(pod, self.namespace, timestamps=True, limit_bytes=11)
        equal((len(stamped), stamped[10]), (11, "T"), stamped)
        refused(400, "container none is not valid", lambda: self.core.read_namespaced_pod_log(pod, self.namespace, container="none"))

    def follow(self):
        script = "for n in 1 2 3; do echo line $n; sleep 0.2; done"
        spec = {"restartPolicy": "Never", "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "counts"}, "spec": spec}
        self.core.create_namespaced_pod(self.namespace, body)
        started = lambda: self.core.read_namespaced_pod("counts", self.namespace).status.phase != "Pending"
        wait_for("the pod starts", started)
        lines = watch.Watch().stream(self.core.read_namespaced_pod_log, "counts", self.namespace)
        lines = [line for line in lines if line]
        equal(lines, ["line 1", "line 2", "line 3"])

    def scale(self):
        self.apps.patch_namespaced_deployment_scale("web", self.namespace, {"spec": {"replicas": 3}})
        self.await_deployment(lambda it: it.status.ready_replicas == 3)
        equal(self.apps.read_namespaced_deployment_scale("web", self.namespace).status.replicas, 3)

    def update(self):
        before = {pod.metadata.uid for pod in self.pods()}
        env = [{"name": "main", "env": [{"name": "COLOUR", "value": "red"}]}]
        self.apps.patch_namespaced_deployment("web", self.namespace, {"spec": {"template": {"spec": {"containers": env}}}})
        done = lambda it: it.status.updated_replicas == it.status.replicas == it.status.available_replicas == 3
        self.await_deployment(done)
        running = [pod for pod in self.pods() if pod.metadata.deletion_timestamp is None]
        equal(before & {pod.metadata.uid for pod in running}, set(), "pods of the old revision")
        equal({pod.spec.containers[0].env[0].value for pod in running}, {"red"})

    def dependents(self):
        self.apps.delete_namespaced_deployment("web", self.namespace, propagation_policy="Foreground")
        wait_for("the pods go with the Deployment", lambda: not self.pods())
        # Each owner goes after what it owns.
        sets = lambda: self.apps.list_namespaced_replica_set(self.namespace, label_selector="app=web").items
        wait_for("the ReplicaSets go with the Deployment", lambda: not sets())


class Custom:
    """A kind of the program's own, through the typed client's CustomObjectsApi and through the DynamicClient."""

    CHECKS = ["define", "create", "list", "watch", "patches", "apply", "replace", "status", "scale", "delete", "undefine"]
    GROUP, PLURAL = "python.example", "boats"

    def __init__(self, api_client, namespace):
        self.definitions = client.ApiextensionsV1Api(api_client)
        self.objects = client.CustomObjectsApi(api_client)
        self.api_client, self.namespace = api_client, namespace
        self.at = (self.GROUP, "v1", namespace, self.PLURAL)

    def boats(self):
        return dynamic.DynamicClient(self.api_client).resources.get(api_version=f"{self.GROUP}/v1", kind="Boat")

    def boat(self, name, **spec):
        labels = {"of": "python"}
        return {"apiVersion": f"{self.GROUP}/v1", "kind": "Boat", "metadata": {"name": name, "labels": labels}, "spec": spec}

    def define(self):
        spec = {
            "type": "object",
            "required": ["sails"],
            "properties": {
                "sails": {"type": "integer", "minimum": 0, "maximum": 9},
                "colour": {"type": "string", "default": "white"},
                "crew": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "rank": {"type": "string"}}, "required": ["name"]},
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                },
            },
        }
        status = {"type": "object", "properties": {"sails": {"type": "integer"}}}
        version = client.V1CustomResourceDefinitionVersion(
            name="v1",
            served=True,
            storage=True,
            schema=client.V1CustomResourceValidation(
                open_apiv3_schema={"type": "object", "properties": {"spec": spec, "status": status}}
            ),
            subresources=client.V1CustomResourceSubresources(
                status={},
                scale=client.V1CustomResourceSubresourceScale(
                    spec_replicas_path=".spec.sails", status_replicas_path=".status.sails"
                ),
            ),
        )
        names = client.V1CustomResourceDefinitionNames(plural=self.PLURAL, singular="boat", kind="Boat", short_names=["bt"])
        body = client.V1CustomResourceDefinition(
            metadata=client.V1ObjectMeta(name=f"{self.PLURAL}.{self.GROUP}"),
            spec=client.V1CustomResourceDefinitionSpec(
                group=self.GROUP, scope="Namespaced", names=names, versions=[version]
            ),
        )
        self.definitions.create_custom_resource_definition(body)

        def established():
            found = self.definitions.read_custom_resource_definition(body.metadata.name)
            conditions = {it.type: it.status for it in found.status.conditions or []}
            return conditions.get("Established") == "True" and conditions.get("NamesAccepted") == "True"

        wait_for("the kind is established", established)
        equal(self.boats().short_names, ["bt"])

    def create(self):
        made = self.objects.create_namespaced_custom_object(*self.at, self.boat("first", sails=2))
        equal(made["spec"], {"sails": 2, "colour": "white"}, "the schema's default")
        equal("status" in made, False, "nobody has written a status")
        made = self.boats().create(namespace=self.namespace, body=self.boat("second", sails=3, colour="red"))
        equal((made.kind, made.spec.colour, made.metadata.generation), ("Boat", "red", 1))
        for bad in [{"sails": 10}, {}, {"sails": "two"}]:
            refused(422, "Invalid", lambda: self.objects.create_namespaced_custom_object(*self.at, self.boat("bad", **bad)))
        refused(409, "AlreadyExists", lambda: self.boats().create(namespace=self.namespace, body=self.boat("first", sails=1)))
        unknown = self.boat("pruned", sails=1, anchor="iron")
        pruned = self.objects.create_namespaced_custom_object(*self.at, unknown, field_validation="Ignore")
        equal("anchor" in pruned["spec"], False, "what the schema does not name is dropped")
        refused(400, "anchor", lambda: self.objects.create_namespaced_custom_object(*self.at, self.boat("b", sails=1, anchor=""), field_validation="Strict"))
        self.objects.delete_namespaced_custom_object(*self.at, "pruned")

    def list(self):
        found = self.objects.list_namespaced_custom_object(*self.at, label_selector="of=python")
        equal((found["kind"], [it["metadata"]["name"] for it in found["items"]]), ("BoatList", ["first", "second"]))
        page = self.boats().get(namespace=self.namespace, limit=1)
        equal([it.metadata.name for it in page.items], ["first"])
        rest = self.boats().get(namespace=self.namespace, limit=1, _continue=page.metadata["continue"])
        equal([it.metadata.name for it in rest.items], ["second"])
        everywhere = self.objects.list_cluster_custom_object(self.GROUP, "v1", self.PLURAL)
        equal(len(everywhere["items"]), 2)

    def watch(self):
        begin = self.boats().get(namespace=self.namespace).metadata.resourceVersion
        self.boats().create(namespace=self.namespace, body=self.boat("seen", sails=1))
        self.objects.patch_namespaced_custom_object(*self.at, "seen", {"spec": {"sails": 2}})
        self.objects.delete_namespaced_custom_object(*self.at, "seen")
        expected = [("ADDED", 1), ("MODIFIED", 2), ("DELETED", 2)]
        seen = []
        for event in self.boats().watch(namespace=self.namespace, resource_version=begin, timeout=BOUND_S):
            seen.append((event["type"], event["object"].spec.sails))
            if event["type"] == "DELETED":
                break
        equal(seen, expected, "through the DynamicClient")
        stream = watch.Watch().stream(
            self.objects.list_namespaced_custom_object, *self.at, resource_version=begin, timeout_seconds=BOUND_S
        )
        seen = []
        for event in stream:
            seen.append((event["type"], event["object"]["spec"]["sails"]))
            if event["type"] == "DELETED":
                break
        equal(seen, expected, "through the typed client")

    def patches(self):
        boats, name, namespace = self.boats(), "first", self.namespace
        merged = boats.patch(name=name, namespace=namespace, body={"spec": {"colour": "blue"}}, content_type=MERGE_PATCH)
        equal((merged.spec.colour, merged.metadata.generation), ("blue", 2))
        body = [{"op": "test", "path": "/spec/colour", "value": "blue"}, {"op": "add", "path": "/spec/crew", "value": [{"name": "ann"}]}]
        patched = boats.patch(name=name, namespace=namespace, body=body, content_type=JSON_PATCH)
        equal(patched.spec.crew[0].name, "ann")
        bad = {"spec": {"sails": 100}}
        refused(422, "should be less than or equal to 9", lambda: self.objects.patch_namespaced_custom_object(*self.at, name, bad))
        call = lambda: boats.patch(name=name, namespace=namespace, body={"spec": {"sails": 1}}, content_type=STRATEGIC_PATCH)
        refused(415, "UnsupportedMediaType", call)

    def apply(self):
        """Lists with keys merge by their keys, each entry with an owner of its own."""
        boats = self.boats()

        def applied(manager, rank, force=None):
            body = self.boat("first", crew=[{"name": "bob", "rank": rank}])
            del body["metadata"]["labels"]
            return boats.server_side_apply(body=body, namespace=self.namespace, field_manager=manager, force_conflicts=force)

        found = applied("python", "mate")
        equal(sorted((it.name, it.rank) for it in found.spec.crew), [("ann", None), ("bob", "mate")])
        error = refused(409, "Conflict", lambda: applied("second", "captain"))
        if ".spec.crew" not in str(error.body):
            raise AssertionError(f"the field is not named: {error.body}")
        equal(applied("second", "captain", force=True).spec.crew[-1].rank, "captain")

    def replace(self):
        found = self.objects.get_namespaced_custom_object(*self.at, "first")
        found["spec"] = {"sails": 5}
        written = self.objects.replace_namespaced_custom_object(*self.at, "first", found)
        equal(written["spec"], {"sails": 5, "colour": "white"})
        refused(409, "Conflict", lambda: self.objects.replace_namespaced_custom_object(*self.at, "first", found))

    def status(self):
        before = self.objects.get_namespaced_custom_object(*self.at, "first")
        body = {"spec": {"sails": 9}, "status": {"sails": 4}}
        after = self.objects.patch_namespaced_custom_object_status(*self.at, "first", body)
        equal((after["status"], after["spec"]), ({"sails": 4}, before["spec"]), "the path of status writes status alone")
        equal(after["metadata"]["generation"], before["metadata"]["generation"])
        ignored = self.objects.patch_namespaced_custom_object(*self.at, "first", {"status": {"sails": 8}})
        equal(ignored["status"], {"sails": 4}, "the object's own path leaves status alone")
        patched = self.boats().status.patch(name="first", namespace=self.namespace, body={"status": {"sails": 6}}, content_type=MERGE_PATCH)
        equal(patched.status.sails, 6)

    def scale(self):
        scale = self.objects.get_namespaced_custom_object_scale(*self.at, "first")
        equal((scale["kind"], scale["spec"], scale["status"]["replicas"]), ("Scale", {"replicas": 5}, 6))
        self.objects.patch_namespaced_custom_object_scale(*self.at, "first", {"spec": {"replicas": 7}})
        equal(self.boats().get(name="first", namespace=self.namespace).spec.sails, 7)
        found = self.boats().scale.get(name="first", namespace=self.namespace).to_dict()
        found["spec"]["replicas"] = 1
        equal(self.boats().scale.replace(body=found, name="first", namespace=self.namespace).spec.replicas, 1)

    def delete(self):
        self.objects.patch_namespaced_custom_object(*self.at, "first", {"metadata": {"finalizers": ["python.example/held"]}})
        self.objects.delete_namespaced_custom_object(*self.at, "first")
        held = self.objects.get_namespaced_custom_object(*self.at, "first")
        if not held["metadata"].get("deletionTimestamp"):
            raise AssertionError(f"it is not being deleted: {held['metadata']}")
        self.objects.patch_namespaced_custom_object(*self.at, "first", {"metadata": {"finalizers": None}})
        refused(404, "NotFound", lambda: self.objects.get_namespaced_custom_object(*self.at, "first"))
        self.objects.delete_collection_namespaced_custom_object(*self.at)
        equal(self.boats().get(namespace=self.namespace).items, [])

    def undefine(self):
        self.objects.create_namespaced_custom_object(*self.at, self.boat("last", sails=1))
        name = f"{self.PLURAL}.{self.GROUP}"
        self.definitions.delete_custom_resource_definition(name)

        def gone():
            try:
                self.definitions.read_custom_resource_definition(name)
            except ApiException as error:
                return error.status == 404

        wait_for("the definition goes", gone)
        refused(404, "", lambda: self.objects.list_namespaced_custom_object(*self.at))


def run(name, checks, method):
    """Runs the checks in order and says one line for each. Returns how many failed."""
    failures = 0
    for check in checks:
        begun = time.monotonic()
        try:
            method(check)()
            print(f"ok {name} {check}", flush=True)
        except Exception:
            failures += 1
            print(f"FAILED {name} {check}", flush=True)
            print(f"{name} {check}:", file=sys.stderr)
            traceback.print_exc()
        print(f"measured: {name} {check}: {(time.monotonic() - begun) * 1000:.0f} ms", file=sys.stderr)
    return failures


def main():
    api_client = config.new_client_from_config()
    failures = 0
    for via in (Typed(api_client), Dynamic(api_client)):
        namespace = f"python-{via.name}"
        via.create(KINDS[0], None, KINDS[0].body(namespace, {}))
        for kind in KINDS:
            one = OneKind(via, kind, namespace)
            failures += run(f"{via.name} {kind.plural}", OneKind.CHECKS, lambda check: getattr(one, check))
    everything = Everything(api_client, "python-dynamic")
    failures += run("dynamic everything", Everything.CHECKS, lambda check: getattr(everything, check))
    custom = Custom(api_client, "python-dynamic")
    failures += run("custom", Custom.CHECKS, lambda check: getattr(custom, check))
    application = Application(api_client, "python-typed")
    failures += run("typed application", Application.CHECKS, lambda check: getattr(application, check))
    return failures


if __name__ == "__main__":
    sys.exit(main())
