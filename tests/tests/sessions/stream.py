"""stream() and portforward() of the unmodified package `kubernetes`, with the pod `web` of main.rs. One line per check: `ok NAME`.
Called by main.rs with KUBECONFIG."""

import time

from kubernetes import client, config
from kubernetes.stream import portforward, stream

config.load_kube_config()
core = client.CoreV1Api()
OUTPUTS = {"stderr": True, "stdin": False, "stdout": True, "tty": False}


def opened(command, **streams):
    options = {**OUTPUTS, **streams}
    return stream(
        core.connect_get_namespaced_pod_exec, "web", "default", command=command, _preload_content=False, **options
    )


answer = stream(
    core.connect_get_namespaced_pod_exec, "web", "default", command=["sh", "-c", "echo out; echo err >&2"], **OUTPUTS
)
assert sorted(answer.split()) == ["err", "out"], answer
print("ok exec")

session = opened(["sh", "-c", "echo a; exit 7"])
session.run_forever(timeout=30)
assert session.returncode == 7, session.returncode
assert session.read_stdout() == "a\n"
print("ok exit")

session = opened(["sh", "-c", "read line; echo got $line; read line; echo got $line"], stdin=True)
for line in ["one", "two"]:
    session.write_stdin(line + "\n")
    said = session.readline_stdout(timeout=30)
    assert said == "got " + line, said
session.run_forever(timeout=30)
assert session.returncode == 0
print("ok input")

session = opened(["sh", "-c", "read go; stty size"], stdin=True, tty=True, stderr=False)
session.write_channel(4, '{"Width": 91, "Height": 17}')
session.write_stdin("go\n")
deadline, said = time.monotonic() + 30, ""
while "17 91" not in said and time.monotonic() < deadline:
    session.update(timeout=1)
    said += session.read_stdout(timeout=0) or ""
assert "17 91" in said, said
session.close()
print("ok terminal")

ports = portforward(core.connect_get_namespaced_pod_portforward, "web", "default", ports="8080")
connection = ports.socket(8080)
connection.setblocking(True)
connection.settimeout(30)
connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
received = b""
while True:
    part = connection.recv(65536)
    if not part:
        break
    received += part
connection.close()
assert ports.error(8080) is None, ports.error(8080)
head, body = received.split(b"\r\n\r\n", 1)
assert len(body) == 3000000, (head, len(body))
print("ok ports")
