#!/usr/bin/env bash
# deploy/kubernetes and deploy/systemd are what they say: every overlay is rendered, checked against the schemas of Kubernetes,
# and against itself, the settings, the image and the code; the units are checked by systemd. No cluster is needed.
# KUBECTL names another kubectl; DUET_BIN another binary to try the settings with.
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl=${KUBECTL:-kubectl}
missing() { echo "$1 is missing: apt-get install $2"; exit 1; }
command -v "$kubectl" >/dev/null || missing kubectl kubernetes-client
command -v systemd-analyze >/dev/null || missing systemd-analyze systemd

# Schemas of Kubernetes 1.25 to 1.37, strict: a field that nobody knows is an error.
venv=target/manifests-venv
if ! "$venv/bin/python" -c 'import kubernetes_validate' 2>/dev/null; then
  rm -rf "$venv"
  python3 -m venv "$venv" || missing python3-venv python3-venv
  "$venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for directory in deploy/kubernetes/overlays/*/; do
  overlay=$(basename "$directory")
  if ! "$kubectl" kustomize "$directory" >"$work/$overlay.yaml" 2>"$work/warnings"; then
    cat "$work/warnings"
    echo "$directory: not rendered"
    exit 1
  fi
done

"$venv/bin/python" - "$work" <<'PYTHON'
import ipaddress, os, pathlib, re, subprocess, sys, tomllib
import jsonschema, kubernetes_validate, yaml

work = pathlib.Path(sys.argv[1])
kubernetes = pathlib.Path("deploy/kubernetes")
systemd = pathlib.Path("deploy/systemd")
VERSIONS = ["1.25", "1.37"]
# Seconds between the end of a drain and whoever kills.
MARGIN = 5

# The fields of a ServiceMonitor that are used here, as the Prometheus operator documents them: its own definition is in no package.
# Another field is an error until it is added here.
def record(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}
WORD, DURATION = {"type": "string", "minLength": 1}, {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
WORDS = {"type": "object", "additionalProperties": WORD, "minProperties": 1}
SERVICE_MONITOR = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"}, kind={"const": "ServiceMonitor"},
    metadata=record(["name"], name=WORD, namespace=WORD, labels=WORDS),
    spec=record(["selector", "endpoints"], selector=record(["matchLabels"], matchLabels=WORDS),
        endpoints={"type": "array", "minItems": 1, "items": record(
            ["port"], port=WORD, path={"type": "string", "pattern": "^/"}, interval=DURATION, scrapeTimeout=DURATION)}))

complaints = []
def expect(holds, complaint):
    if not holds:
        complaints.append(complaint)
    return holds

# What the rest of the repository says.
def flat(tables):
    return {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
def read(path):
    return pathlib.Path(path).read_text()
defaults = flat(tomllib.loads(read("config/default.toml")))
cluster = flat(tomllib.loads(read("config/cluster.toml")))
documented = set(re.findall(r"^\| `(DUET_[A-Z_]+)`", read("README.md"), re.M))
variables = {"DUET_" + key.upper().replace(".", "__") for key in defaults}
expect(variables and variables == documented,
    f"README.md and config/default.toml list different settings: {sorted(variables ^ documented)}")
dockerfile = read("Dockerfile")
image_user = int(re.findall(r"^USER (\d+)", dockerfile, re.M)[-1])
image_ports = set(map(int, re.search(r"^EXPOSE ([\d ]+)$", dockerfile, re.M)[1].split()))
expect("COPY config/cluster.toml /etc/duet/cluster.toml" in dockerfile, "Dockerfile: config/cluster.toml is not where it was")
routes = set(re.findall(r'\.route\("([^"]+)"', read("src/http.rs")))
metrics = set(re.findall(r'"(duet_[a-z_]+)"', read("src/metrics.rs")))
bad_settings = re.search(r"BAD_SETTINGS: u8 = (\d+);", read("src/main.rs"))[1]

def seconds(duration):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    assert parts and "".join(map("".join, parts)) == duration, f"not a duration: {duration}"
    return sum(int(number) * units[unit] for number, unit in parts)

def in_force(where, environment, key):
    """A setting as a node with this environment reads it."""
    name = "DUET_" + key.upper().replace(".", "__")
    file = environment.get("DUET_CONFIG")
    expect(file in (None, "/etc/duet/cluster.toml"), f"{where}: DUET_CONFIG is {file}, which is not there")
    return environment.get(name, (cluster if file else {}).get(key, defaults[key]))

def port_of(address):
    return int(address.rsplit(":", 1)[1])

def known(where, names):
    for name in names:
        expect(not name.startswith("DUET_") or name in variables | {"DUET_CONFIG"}, f"{where}: {name} is no setting")

def try_settings(where, environment):
    """duet itself reads them, with the repository's file and an example of each secret file."""
    binary = os.environ.get("DUET_BIN", "target/release/duet")
    if not pathlib.Path(binary).exists():
        print(f"{where}: settings not tried, {binary} is not built")
        return
    environment = {name: value for name, value in environment.items() if name.startswith("DUET_")}
    if "DUET_CONFIG" in environment:
        environment["DUET_CONFIG"] = "config/cluster.toml"
    if environment.get("DUET_REDIS__PASSWORD_FILE"):
        (work / "password").write_text("example\n")
        environment["DUET_REDIS__PASSWORD_FILE"] = str(work / "password")
    ran = subprocess.run([binary, "--check-config"], env=environment, capture_output=True, text=True)
    expect(ran.returncode == 0, f"{where}: duet does not start with these settings: {ran.stderr.strip()}")

def selects(selector, labels):
    """Label selectors, as far as they are used here. An empty one is nobody's intention."""
    assert set(selector) <= {"matchLabels"}, f"selector {selector}"
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and wanted.items() <= labels.items()

def name(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"

class Overlay:
    def __init__(self, directory, documents, secret_example):
        self.where = directory
        self.things = documents
        self.example = secret_example
        self.workloads = self.of("Deployment") + self.of("StatefulSet")

    def of(self, kind):
        return [thing for thing in self.things if thing["kind"] == kind]

    def expect(self, holds, complaint):
        return expect(holds, f"{self.where}: {complaint}")

    def one(self, kind, wanted):
        found = [thing for thing in self.of(kind) if thing["metadata"]["name"] == wanted]
        self.expect(len(found) == 1, f"{len(found)} of {kind} {wanted}")
        return found[0]

    def labels(self, workload):
        return workload["spec"]["template"]["metadata"]["labels"]

    def selected(self, selector):
        return [workload for workload in self.workloads if selects(selector, self.labels(workload))]

    def ports(self, workload):
        return {port["name"]: port["containerPort"]
                for container in workload["spec"]["template"]["spec"]["containers"] for port in container["ports"]}

    def check(self):
        if not self.schemas():
            return
        self.deployment = self.one("Deployment", "duet")
        self.pod = self.deployment["spec"]["template"]["spec"]
        self.container = self.pod["containers"][0]
        for part in (self.names, self.pods, self.node, self.probes, self.services, self.availability,
                     self.monitoring, self.policies, self.ingresses, self.scaling, self.settings):
            try:
                part()
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                self.expect(False, f"{part.__name__}: not of the form that is looked for: {error!r}")

    def schemas(self):
        before = len(complaints)
        for thing in self.things + [self.example]:
            try:
                if thing["kind"] == "ServiceMonitor":
                    jsonschema.validate(thing, SERVICE_MONITOR)
                    continue
                for version in VERSIONS:
                    kubernetes_validate.validate(thing, version, strict=True)
            except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
                at = ".".join(map(str, error.absolute_path))
                self.expect(False, f"{name(thing)}: {at or 'top'}: {error.message}")
            except kubernetes_validate.SchemaNotFoundError as error:
                self.expect(False, f"{name(thing)}: {error.message}")
        return len(complaints) == before

    def names(self):
        keys = [(thing["kind"], thing["metadata"]["name"]) for thing in self.things]
        self.expect(len(keys) == len(set(keys)), "two things of one name")
        namespaces = {thing["metadata"].get("namespace") for thing in self.things if thing["kind"] != "Namespace"}
        self.expect(namespaces == {thing["metadata"]["name"] for thing in self.of("Namespace")},
            f"things are in the namespaces {namespaces}, which are not those that are made")
        self.expect(self.example["metadata"]["namespace"] in namespaces, "the example of a Secret is for another namespace")
        for namespace in self.of("Namespace"):
            self.expect(namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") == "restricted",
                "the namespace takes pods of any kind")

    def pods(self):
        """Every pod: nothing that the standard `restricted` forbids, and nothing that it does not need."""
        for workload in self.workloads:
            self.expect(selects(workload["spec"]["selector"], self.labels(workload)), f"{name(workload)} does not select its pods")
            self.expect(len(self.selected(workload["spec"]["selector"])) == 1, f"{name(workload)} selects pods of another, too")
            pod = workload["spec"]["template"]["spec"]
            context = pod["securityContext"]
            self.expect(context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0, f"{name(workload)} may be root")
            self.expect(context.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{name(workload)}: no seccomp profile")
            self.expect(pod.get("automountServiceAccountToken") is False, f"{name(workload)} has a token")
            # They would look like settings: DUET_SERVICE_HOST.
            self.expect(pod.get("enableServiceLinks") is False, f"{name(workload)} has Services in its environment")
            self.expect(not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), f"{name(workload)} is in the host's namespaces")
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            for container in pod["containers"] + pod.get("initContainers", []):
                context = container["securityContext"]
                self.expect(context.get("allowPrivilegeEscalation") is False and context.get("readOnlyRootFilesystem") is True
                    and context.get("capabilities") == {"drop": ["ALL"]} and not context.get("privileged"),
                    f"{name(workload)}: {container['name']} may do more than it needs")
                self.expect({"cpu", "memory"} <= set(container["resources"]["requests"])
                    and {"cpu", "memory"} <= set(container["resources"]["limits"]), f"{name(workload)}: requests or limits are missing")
                self.expect({mount["name"] for mount in container.get("volumeMounts", [])} == volumes,
                    f"{name(workload)}: volumes and mounts differ")

    def node(self):
        """The pod of a node, and the image."""
        context = self.pod["securityContext"]
        self.expect(context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == image_user,
            f"not the image's user {image_user}")
        self.expect(set(self.ports(self.deployment).values()) == image_ports, f"not the image's ports {image_ports}")
        self.one("ServiceAccount", self.pod["serviceAccountName"])
        spread = self.pod["topologySpreadConstraints"]
        self.expect({each["topologyKey"] for each in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"},
            "nodes are not spread over zones and machines")
        for each in spread:
            self.expect(self.selected(each["labelSelector"]) == [self.deployment], "what is spread is not the nodes")
        rolling = self.deployment["spec"]["strategy"]["rollingUpdate"]
        self.expect(rolling == {"maxSurge": 1, "maxUnavailable": 0}, f"rolling update {rolling}")
        tag = self.container["image"].rpartition(":")[2]
        self.expect(self.where.name == "try" or tag != "latest", "the image is `latest`")

    def probes(self):
        """Redis that is down makes a node unready, and never restarts it."""
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            get = self.container[probe]["httpGet"]
            self.expect(get["path"] == path and path in routes, f"{probe} asks for {get['path']}")
            self.expect(get["port"] == "admin", f"{probe} asks at {get['port']}")
        for workload in self.workloads:
            for container in workload["spec"]["template"]["spec"]["containers"]:
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    for how in container.get(probe, {}).values():
                        if isinstance(how, dict) and "port" in how:
                            self.expect(how["port"] in self.ports(workload), f"{name(workload)}: {probe}: no port {how['port']}")

    def services(self):
        for service in self.of("Service"):
            spec = service["spec"]
            targets = self.selected({"matchLabels": spec["selector"]})
            if not self.expect(len(targets) == 1, f"{name(service)} selects {len(targets)} workloads"):
                continue
            ports = self.ports(targets[0])
            for port in spec["ports"]:
                if not self.expect(port["targetPort"] in ports, f"{name(service)}: no port {port['targetPort']}"):
                    continue
                inside = spec.get("type", "ClusterIP") == "ClusterIP" and spec.get("clusterIP") == "None" and "externalIPs" not in spec
                self.expect(port["targetPort"] != "admin" or inside, f"{name(service)}: probes and metrics could be reached from outside")
                self.expect(spec.get("clusterIP") != "None" or port["port"] == ports[port["targetPort"]],
                    f"{name(service)}: without an address of its own, a port is the pod's port")
        public = self.one("Service", "duet")["spec"]
        self.expect([port["targetPort"] for port in public["ports"]] == ["http"] and public["sessionAffinity"] == "ClientIP",
            "Service duet is not the public port, with affinity")
        self.expect(self.one("Service", "duet-nodes")["spec"].get("publishNotReadyAddresses") is True, "a node that drains is not found")
        for workload in self.of("StatefulSet"):
            self.one("Service", workload["spec"]["serviceName"])

    def availability(self):
        budgets = self.of("PodDisruptionBudget")
        self.expect([self.selected(budget["spec"]["selector"]) for budget in budgets] == [[self.deployment]],
            "the PodDisruptionBudget is not for the nodes")
        for budget in budgets:
            self.expect(budget["spec"].get("maxUnavailable") == 1, "machines cannot be emptied, or too many nodes go at once")

    def monitoring(self):
        monitors = self.of("ServiceMonitor")
        self.expect(self.where.name != "production" or len(monitors) == 1, "no ServiceMonitor")
        for monitor in monitors:
            services = [service for service in self.of("Service")
                        if selects(monitor["spec"]["selector"], service["metadata"]["labels"])]
            if not self.expect(len(services) == 1, f"{name(monitor)} selects {len(services)} Services"):
                continue
            ports = {port["name"]: port["targetPort"] for port in services[0]["spec"]["ports"]}
            for endpoint in monitor["spec"]["endpoints"]:
                self.expect(ports.get(endpoint["port"]) == "admin", f"{name(monitor)}: {endpoint['port']} is not the admin port")
                self.expect(endpoint["path"] in routes, f"{name(monitor)}: {endpoint['path']} is not served")
                self.expect(seconds(endpoint["scrapeTimeout"]) <= seconds(endpoint["interval"]), f"{name(monitor)}: time-out")

    def policies(self):
        redis = []
        isolated = {"Ingress": [], "Egress": []}
        public = False
        for policy in self.of("NetworkPolicy"):
            spec = policy["spec"]
            targets = self.selected(spec["podSelector"])
            if not self.expect(len(targets) == 1, f"{name(policy)} is for {len(targets)} workloads"):
                continue
            ports = self.ports(targets[0])
            for kind in spec["policyTypes"]:
                isolated[kind].append(targets[0])
            self.expect(("ingress" not in spec or "Ingress" in spec["policyTypes"])
                and ("egress" not in spec or "Egress" in spec["policyTypes"]), f"{name(policy)}: a rule of a kind that is not in force")
            for rule in spec.get("ingress", []):
                self.expect(rule.get("ports"), f"{name(policy)} opens every port")
                for port in rule.get("ports", []):
                    if not self.expect(port["port"] in ports, f"{name(policy)}: no port {port['port']}"):
                        continue
                    whom = rule.get("from", [])
                    public |= port["port"] == "http" and not whom
                    self.expect(port["port"] == "http" or whom and not any("ipBlock" in peer for peer in whom),
                        f"{name(policy)}: {port['port']} is open to everybody")
                    self.expect(all(selector.get("matchLabels") for peer in whom for selector in peer.values()),
                        f"{name(policy)}: {port['port']} is open to every pod")
            for rule in spec.get("egress", []):
                if not self.expect(rule.get("to") and rule.get("ports"), f"{name(policy)} lets pods reach everything"):
                    continue
                for peer in rule["to"]:
                    block = peer.get("ipBlock", {}).get("cidr")
                    self.expect(block is None or ipaddress.ip_network(block).is_private and ipaddress.ip_network(block).prefixlen >= 8,
                        f"{name(policy)} lets pods reach {block}")
                    if targets[0] is self.deployment and {port["port"] for port in rule["ports"]} != {53}:
                        redis += [(peer, port["port"]) for port in rule["ports"]]
        for kind, workloads in isolated.items():
            for workload in self.workloads:
                self.expect(workload in workloads, f"{name(workload)}: no NetworkPolicy for {kind}")
        self.expect(public, "clients cannot reach the nodes")
        self.expect(redis, "nodes cannot reach Redis")
        for store in self.of("StatefulSet"):
            # Both ends of the way have to be open.
            self.expect(any(selects(peer.get("podSelector", {}), self.labels(store)) and port in self.ports(store).values()
                for peer, port in redis), f"nodes cannot reach {name(store)}")
            self.expect(any(selects(peer.get("podSelector", {}), self.labels(self.deployment))
                for policy in self.of("NetworkPolicy") if self.selected(policy["spec"]["podSelector"]) == [store]
                for rule in policy["spec"].get("ingress", []) for peer in rule["from"]), f"{name(store)} lets no node in")
            image, _, tag = store["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")
            self.expect(image == "redis" and int(re.match(r"\d+", tag)[0]) >= 7, "Redis 7 or newer is needed")

    def ingresses(self):
        self.expect(self.where.name != "production" or len(self.of("Ingress")) == 1, "no Ingress")
        for ingress in self.of("Ingress"):
            spec, annotations = ingress["spec"], ingress["metadata"]["annotations"]
            prefix = "nginx.ingress.kubernetes.io/"
            self.expect(annotations.get(prefix + "affinity") == "cookie" and annotations.get(prefix + "affinity-mode") == "persistent",
                f"{name(ingress)}: sessions that poll do not stay on their nodes")
            heartbeat = seconds(defaults["timeouts.ping_interval"]) + seconds(defaults["timeouts.ping_timeout"])
            for timeout in ("proxy-read-timeout", "proxy-send-timeout"):
                self.expect(int(annotations[prefix + timeout]) > heartbeat, f"{name(ingress)}: {timeout} is shorter than a heartbeat")
            self.expect({host for tls in spec["tls"] for host in tls["hosts"]} == {rule["host"] for rule in spec["rules"]},
                f"{name(ingress)}: hosts and their certificates differ")
            for backend in [path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]]:
                ports = {port["name"]: port["targetPort"] for port in self.one("Service", backend["name"])["spec"]["ports"]}
                self.expect(ports.get(backend["port"]["name"]) == "http", f"{name(ingress)}: {backend['port']} is not the public port")

    def scaling(self):
        scalers = self.of("HorizontalPodAutoscaler")
        self.expect(self.where.name != "production" or len(scalers) == 1, "no HorizontalPodAutoscaler")
        self.expect(bool(scalers) != ("replicas" in self.deployment["spec"]), "nobody, or two, say how many nodes there are")
        self.expect(self.deployment["spec"].get("replicas", 2) >= 2, "one node is no cluster")
        rules = yaml.safe_load(read(kubernetes / "autoscaling/prometheus-adapter-values.yaml"))["rules"]["custom"]
        for scaler in scalers:
            spec = scaler["spec"]
            target = spec["scaleTargetRef"]
            self.expect(self.one(target["kind"], target["name"])["apiVersion"] == target["apiVersion"], f"{name(scaler)}: target")
            self.expect(2 <= spec["minReplicas"] < spec["maxReplicas"], f"{name(scaler)}: bounds")
            by = {metric["type"]: metric[metric["type"].lower()] for metric in spec["metrics"]}
            self.expect(set(by) == {"Pods", "Resource"}, f"{name(scaler)}: metrics {sorted(by)}")
            wanted = by["Pods"]["metric"]["name"]
            self.expect(wanted in metrics, f"{name(scaler)}: duet has no metric {wanted}")
            self.expect([rule["name"]["as"] for rule in rules] == [wanted]
                and all(rule["seriesQuery"].startswith(wanted + "{") for rule in rules), f"prometheus-adapter does not give {wanted}")
            # 17 KiB a socket, and as much again for what waits.
            limit = re.fullmatch(r"(\d+)Gi", self.container["resources"]["limits"]["memory"])
            self.expect(limit and int(by["Pods"]["target"]["averageValue"]) * 34 * 1024 <= int(limit[1]) << 30,
                f"{name(scaler)}: more sockets than there is memory for")

    def settings(self):
        """What a node reads is there, is known, and is what the rest of the pod counts on."""
        secrets = {secret["metadata"]["name"]: set(secret.get("data", {})) | set(secret.get("stringData", {}))
                   for secret in self.of("Secret") or [self.example]}
        environment = {}
        for source in self.container["envFrom"]:
            environment |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in self.container["env"]:
            key = variable["valueFrom"]["secretKeyRef"]
            self.expect(key["key"] in secrets.get(key["name"], ()) and not key.get("optional"), f"no {key['key']} in Secret {key['name']}")
            environment[variable["name"]] = (self.of("Secret") or [self.example])[0].get("stringData", {}).get(key["key"])
        known(self.where, environment)
        environment["DUET_REDIS__URL"] = self.redis_url(environment["DUET_REDIS__URL"])
        mounts = {mount["mountPath"]: mount["name"] for mount in self.container["volumeMounts"]}
        volumes = {volume["name"]: volume["secret"]["secretName"] for volume in self.pod["volumes"]}
        for variable, path in environment.items():
            if variable.endswith("_FILE"):
                directory, _, file = path.rpartition("/")
                self.expect(file in secrets.get(volumes.get(mounts.get(directory)), ()), f"{variable}: no {path}")
        for secret in volumes.values():
            self.expect(secret in secrets, f"no Secret {secret}")
        ports = self.ports(self.deployment)
        for key, port in (("server.listen", "http"), ("admin.listen", "admin")):
            address = in_force(self.where, environment, key)
            self.expect(port_of(address) == ports[port] and address.startswith("0.0.0.0:"),
                f"{key} is {address}, but the port is {ports[port]}")
        drain, grace = seconds(in_force(self.where, environment, "timeouts.drain")), self.pod["terminationGracePeriodSeconds"]
        self.expect(grace >= drain + MARGIN, f"killed after {grace} s, but a drain may take {drain:g} s")
        try_settings(self.where, environment)

    def redis_url(self, given):
        """The URL; if Redis is in the overlay, it leads there."""
        if not self.of("StatefulSet"):
            return given
        import base64
        url = base64.b64decode(self.of("Secret")[0]["data"]["url"]).decode()
        host, _, port = url.removeprefix("redis://").partition(":")
        service = self.one("Service", host)
        self.expect(int(port) in [each["port"] for each in service["spec"]["ports"]], f"{url}: no such port")
        return url

example = yaml.safe_load(read(kubernetes / "overlays/production/secret.example.yaml"))
overlays = sorted(work.glob("*.yaml"))
expect({path.stem for path in overlays} == {"try", "production"}, "other overlays than are known here")
count = 0
for path in overlays:
    things = list(yaml.safe_load_all(path.read_text()))
    count += len(things)
    Overlay(kubernetes / "overlays" / path.stem, things, example).check()

# The units.
def unit(path):
    lines = [line for line in read(path).splitlines() if line and line[0] not in "#;"]
    return [tuple(line.split("=", 1)) for line in lines if "=" in line]
node, template = unit(systemd / "duet.service"), unit(systemd / "duet@.service")
example_file = re.findall(r"^#?(DUET_[A-Z_]+)=(.*)$", read(systemd / "duet.env"), re.M)
known(systemd / "duet.env", dict(example_file))
active = dict(re.findall(r"^(DUET_[A-Z_]+)=(.*)$", read(systemd / "duet.env"), re.M))
differ = {"Description", "Environment", "EnvironmentFile"}
for file, lines in (("duet.service", node), ("duet@.service", template)):
    where = systemd / file
    def last(key):
        return next((value for found, value in reversed(lines) if found == key), None)
    environment = dict(word.split("=", 1) for key, value in lines if key == "Environment" for word in value.split())
    known(where, environment)
    # Instance 1. The file wins over the unit's own.
    environment = {key: value.replace("%i", "1") for key, value in environment.items()} | active
    drain = seconds(in_force(where, environment, "timeouts.drain"))
    expect(int(last("TimeoutStopSec")) >= drain + MARGIN,
        f"{where}: killed after {last('TimeoutStopSec')} s, but a drain may take {drain:g} s")
    expect(last("RestartPreventExitStatus") == bad_settings and last("Restart") == "on-failure", f"{where}: bad settings are tried again")
    expect(in_force(where, environment, "admin.listen").startswith("127.0.0.1:"),
        f"{where}: probes and metrics are not of this machine only")
    credential = last("LoadCredential").split(":")[0]
    expect(environment.get("DUET_REDIS__PASSWORD_FILE") == f"%d/{credential}" and last("SetCredential") == credential + r":\n",
        f"{where}: the password is not where it is looked for")
    expect(int(last("LimitNOFILE")) >= 1 << 16, f"{where}: too few files")
    expect(last("ExecReload") == "/bin/kill -HUP $MAINPID", f"{where}: settings are not read again")
    expect(last("DynamicUser") == "yes" and last("ExecStart") == "/usr/local/bin/duet", f"{where}: user or program")
    try_settings(where, environment | {"DUET_REDIS__URL": "redis://127.0.0.1:6379"})
    if file == "duet@.service":
        expect("%i" in dict(lines)["Description"] and "DUET_SERVER__LISTEN" not in active and "DUET_ADMIN__LISTEN" not in active,
            f"{where}: nodes have the same addresses")
expect([line for line in node if line[0] not in differ] == [line for line in template if line[0] not in differ],
    f"{systemd}: the two units differ")

for complaint in complaints:
    print(complaint)
if complaints:
    sys.exit(1)
print(f"{len(overlays)} overlays, {count} things: as Kubernetes {' and '.join(VERSIONS)} wants them, and they fit each other")
PYTHON

# systemd's own word, with nothing of this machine but its units.
root="$work/root"
mkdir -p "$root/etc/systemd/system" "$root/usr/lib" "$root/usr/bin" "$root/usr/local/bin"
ln -s usr/lib "$root/lib"
ln -s usr/bin "$root/bin"
install -m 755 /dev/null "$root/usr/bin/kill"
systemd=/usr/lib/systemd
[ -d "$systemd/system" ] || systemd=/lib/systemd
cp -R "$systemd" "$root/usr/lib/systemd"
cp deploy/systemd/*.service "$root/etc/systemd/system/"
install -m 755 /dev/null "$root/usr/local/bin/duet"
for unit in duet.service duet@1.service; do
  said=$(systemd-analyze verify --root="$root" --man=no "$unit" 2>&1) || { echo "$said"; echo "$unit: not verified"; exit 1; }
  # Keys that it does not know are warnings.
  if grep -F duet <<<"$said"; then exit 1; fi
  # 0 is nothing exposed, 100 everything.
  systemd-analyze security --root="$root" --offline=true --threshold=20 --no-pager "$unit" >"$work/security" 2>&1 \
    || { cat "$work/security"; echo "$unit: more exposed than need be"; exit 1; }
  grep "Overall exposure" "$work/security"
done
echo "deploy/kubernetes, deploy/systemd: rendered, valid, and of one piece"
