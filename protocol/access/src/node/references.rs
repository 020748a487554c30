//! What a pod and a volume refer to by name: Secrets, ConfigMaps, claims, accounts. Any shape of object is read; what is not
//! there is no reference. After Kubernetes' `podutil.VisitPodSecretNames` and its siblings.

use api::access::Access;
use serde_json::Value;

use crate::node::graph::Related;

/// A thing that is referred to: what, in which namespace, by which name.
pub type Reference = (Related, String, String);

/// The annotation of a pod that mirrors a file on its node. It gives the node no rights: the node wrote it itself.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Volume sources that hold a `secretRef` in the pod's namespace.
const WITH_SECRET_REF: [&str; 7] = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];

/// Names of Secrets and ConfigMaps, as they are found.
#[derive(Default)]
struct Found {
    references: Vec<(Related, String)>,
}

impl Found {
    fn add(&mut self, what: Related, name: &str) {
        if !name.is_empty() {
            self.references.push((what, name.to_owned()));
        }
    }

    fn volume(&mut self, pod_name: &str, volume: &Value) {
        self.add(Related::Secret, volume.at(&["secret"]).text("secretName"));
        self.add(Related::Secret, volume.at(&["azureFile"]).text("secretName"));
        self.add(
            Related::Secret,
            volume.at(&["csi", "nodePublishSecretRef"]).text("name"),
        );
        for source in WITH_SECRET_REF {
            self.add(Related::Secret, volume.at(&[source, "secretRef"]).text("name"));
        }
        self.add(Related::ConfigMap, volume.at(&["configMap"]).text("name"));
        for source in volume.at(&["projected"]).items("sources") {
            self.add(Related::Secret, source.at(&["secret"]).text("name"));
            self.add(Related::ConfigMap, source.at(&["configMap"]).text("name"));
        }
        self.add(Related::Claim, volume.at(&["persistentVolumeClaim"]).text("claimName"));
        if volume.has("ephemeral") {
            self.add(Related::Claim, &format!("{pod_name}-{}", volume.text("name")));
        }
    }

    fn container(&mut self, container: &Value) {
        for variable in container.items("env") {
            let source = variable.at(&["valueFrom"]);
            self.add(Related::Secret, source.at(&["secretKeyRef"]).text("name"));
            self.add(Related::ConfigMap, source.at(&["configMapKeyRef"]).text("name"));
        }
        for source in container.items("envFrom") {
            self.add(Related::Secret, source.at(&["secretRef"]).text("name"));
            self.add(Related::ConfigMap, source.at(&["configMapRef"]).text("name"));
        }
    }
}

/// All that a pod refers to, without its account; each once.
fn found_in(pod: &Value) -> Vec<(Related, String)> {
    let spec = pod.at(&["spec"]);
    let mut found = Found::default();
    for volume in spec.items("volumes") {
        found.volume(pod.at(&["metadata"]).text("name"), volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.items(list) {
            found.container(container);
        }
    }
    for secret in spec.items("imagePullSecrets") {
        found.add(Related::Secret, secret.text("name"));
    }
    let claims = spec
        .items("resourceClaims")
        .iter()
        .chain(pod.at(&["status"]).items("resourceClaimStatuses"));
    for claim in claims {
        found.add(Related::ResourceClaim, claim.text("resourceClaimName"));
    }
    found.references.sort();
    found.references.dedup();
    found.references
}

/// What the node of a pod may read because of it. A mirror pod gives nothing.
pub fn of_pod(pod: &Value) -> Vec<Reference> {
    if pod.at(&["metadata", "annotations"]).has(MIRROR) {
        return Vec::new();
    }
    let namespace = pod.at(&["metadata"]).text("namespace");
    let account = pod.at(&["spec"]).text("serviceAccountName");
    let mut found = found_in(pod);
    if !account.is_empty() {
        found.push((Related::ServiceAccount, account.to_owned()));
    }
    let whole = |(what, name)| (what, namespace.to_owned(), name);
    found.into_iter().map(whole).collect()
}

/// The first kind of object that a pod refers to, in the words of a refusal; a mirror pod may refer to none.
pub fn refers_to(pod: &Value) -> Option<&'static str> {
    let found = found_in(pod);
    let has = |what: Related| found.iter().any(|(kind, _)| *kind == what);
    if !pod.at(&["spec"]).text("serviceAccountName").is_empty() {
        return Some("a service account");
    }
    if has(Related::Secret) {
        return Some("secrets");
    }
    if has(Related::ConfigMap) {
        return Some("configmaps");
    }
    let volumes = pod.at(&["spec"]).items("volumes");
    let bundles = |volume: &Value| {
        volume
            .at(&["projected"])
            .items("sources")
            .iter()
            .any(|source| source.has("clusterTrustBundle"))
    };
    if volumes.iter().any(bundles) {
        return Some("clustertrustbundles");
    }
    has(Related::Claim).then_some("persistentvolumeclaims")
}

/// The Secrets that a node reads to mount a volume: namespace and name.
pub fn secrets_of_volume(volume: &Value) -> Vec<(String, String)> {
    let spec = volume.at(&["spec"]);
    let claim_namespace = spec.at(&["claimRef"]).text("namespace");
    let mut secrets = Vec::new();
    let mut add = |reference: &Value, name: &str| {
        let (name, own) = (reference.text(name), reference.text("namespace"));
        let namespace = if own.is_empty() { claim_namespace } else { own };
        if !name.is_empty() {
            secrets.push((namespace.to_owned(), name.to_owned()));
        }
    };
    for source in WITH_SECRET_REF {
        add(spec.at(&[source, "secretRef"]), "name");
    }
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(spec.at(&["csi", reference]), "name");
    }
    let azure = spec.at(&["azureFile"]);
    if !azure.text("secretName").is_empty() {
        let own = azure.text("secretNamespace");
        let namespace = if own.is_empty() { claim_namespace } else { own };
        secrets.push((namespace.to_owned(), azure.text("secretName").to_owned()));
    }
    secrets.sort();
    secrets.dedup();
    secrets
}
