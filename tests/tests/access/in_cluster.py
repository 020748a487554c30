# What a program in a pod does with the API: finds it as client libraries do, proves its identity with the mounted token, and
# prints each different answer. It reads the token anew for each request, as client libraries do.
import json, os, ssl, sys, time, urllib.error, urllib.request

PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"


def read(name):
    with open(f"{PLACE}/{name}") as file:
        return file.read()


def ask(host, path):
    request = urllib.request.Request(f"https://{host}{path}", headers={"Authorization": f"Bearer {read('token')}"})
    context = ssl.create_default_context(cafile=f"{PLACE}/ca.crt")
    try:
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:
            return f"{answer.status} {json.load(answer).get('kind')}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.load(error).get('message')}"
    except OSError as error:
        return f"failed {error}"


env_host = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
path = f"/api/v1/namespaces/{read('namespace')}/pods"
last = {}
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    for name, host in [("address", env_host), ("name", "kubernetes.default.svc")]:
        answer = f"{name}: {ask(host, path)}"
        if last.get(name) != answer:
            last[name] = answer
            print(answer, flush=True)
    time.sleep(0.1)
