//! Owns the load of large lists: all pods of the cluster in one answer, again and again by one client. Called by `api_load`.
//! It must check that every list holds every pod.

use super::measurement::Measurement;
use super::requests::closed;
use super::{ACCEPT, LoadError, Target, expect};
use ::tests::https::Endpoint;
use std::time::Instant;

/// A pod as a Deployment's are, of about 1.5 KB when it is stored. No scheduler has this name, so it stays as it is.
pub fn pod(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"app":"web","pod-template-hash":"6d9f7c9c4d"}}}},"spec":{{"schedulerName":"nobody","containers":[{{"name":"web","image":"registry.example/web:1.27","ports":[{{"containerPort":8080,"protocol":"TCP"}}],"env":[{{"name":"COLOUR","value":"blue"}},{{"name":"POD","valueFrom":{{"fieldRef":{{"fieldPath":"metadata.name"}}}}}}],"resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}},"limits":{{"memory":"128Mi"}}}},"readinessProbe":{{"httpGet":{{"path":"/healthz","port":8080}},"periodSeconds":10}}}}]}}}}"#
    )
}

/// Lists `pods` pods so often through an endpoint.
pub async fn lists(
    target: &Target,
    endpoint: &Endpoint,
    through: &str,
    pods: usize,
    times: usize,
) -> Result<Measurement, LoadError> {
    let path = "/api/v1/pods";
    let request = endpoint.request("GET", path, ACCEPT, b"");
    let mut connection = endpoint.connect().await?;
    // The first one warms the connection and the caches, and is counted apart from nothing: it is checked.
    let first = connection.ask(&request).await?;
    expect(200, "the list", &first)?;
    let found = memchr::memmem::find_iter(&first.body, br#""schedulerName":"nobody""#).count();
    if found != pods {
        return Err(LoadError::Cluster(format!(
            "the list holds {found} pods instead of {pods}"
        )));
    }
    let before = target.cpu();
    let (begun, mut latencies_ms, mut bytes) = (Instant::now(), Vec::new(), 0);
    for _ in 0..times {
        let asked = Instant::now();
        let answer = connection.ask(&request).await?;
        latencies_ms.push(asked.elapsed().as_secs_f64() * 1e3);
        expect(200, "the list", &answer)?;
        if answer.body.len() < first.body.len() {
            return Err(LoadError::Cluster(format!(
                "a list had {} bytes after one of {}",
                answer.body.len(),
                first.body.len()
            )));
        }
        bytes += answer.body.len() as u64;
    }
    let what = format!(
        "list {pods} pods ({:.1} MB) through {through}",
        first.body.len() as f64 / 1e6
    );
    let measurement = Measurement::of(what, 1, latencies_ms, begun.elapsed().as_secs_f64(), bytes);
    Ok(closed(target, before, measurement))
}
