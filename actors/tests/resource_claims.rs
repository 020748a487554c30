//! Pods whose claims are made from templates, over the store in memory with a simulated agent: from the template to a device,
//! and back when the pod is over.

mod world;

use protocol::Key;
use serde_json::{Value, json};
use world::World;

const CLAIMS: &str = "resourceclaims.resource.k8s.io";

async fn one_device(world: &World) {
    let api = "resource.k8s.io/v1";
    let class = json!({"apiVersion": api, "kind": "DeviceClass", "metadata": {"name": "gpu"}, "spec": {}});
    world.create("deviceclasses.resource.k8s.io", "", class).await;
    let slice = json!({"apiVersion": api, "kind": "ResourceSlice", "metadata": {"name": "of-n2"}, "spec": {
        "driver": "gpu.example.com", "nodeName": "n2", "devices": [{"name": "gpu-0"}],
        "pool": {"name": "n2", "generation": 1, "resourceSliceCount": 1},
    }});
    world.create("resourceslices.resource.k8s.io", "", slice).await;
}

async fn template(world: &World) {
    let spec = json!({"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "gpu"}}]}});
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "gpu", "namespace": "default"},
        "spec": {"metadata": {"labels": {"from": "template"}}, "spec": spec}});
    world
        .create("resourceclaimtemplates.resource.k8s.io", "default", template)
        .await;
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
        "resourceClaims": [{"name": "accelerator", "resourceClaimTemplateName": "gpu"}],
    }})
}

async fn is_bound(world: &World, pod: &Key) -> bool {
    let pod = world.read(pod).await.unwrap_or_default();
    pod["spec"]["nodeName"] == "n2"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_a_template_comes_and_goes_with_its_pod() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    one_device(&world).await;
    // The pod is there first, and waits for its template.
    let first = world.create("pods", "default", pod("first")).await;
    template(&world).await;
    world
        .until("the first pod is where the device is", async |world: &World| {
            is_bound(world, &first).await
        })
        .await;
    let claims = world.list(CLAIMS).await;
    let [(key, claim)] = claims.as_slice() else {
        panic!("{claims:?}")
    };
    let bound = world.read(&first).await.unwrap();
    assert_eq!(
        bound["status"]["resourceClaimStatuses"],
        json!([{"name": "accelerator", "resourceClaimName": &*key.name}])
    );
    assert!(key.name.starts_with("first-accelerator-"), "{key}");
    assert_eq!(claim["metadata"]["labels"]["from"], "template");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], bound["metadata"]["uid"]);
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "first");
    assert_eq!(
        claim["status"]["allocation"]["devices"]["results"][0]["device"],
        "gpu-0"
    );

    // There is one device: the second pod waits until the first one is over.
    let second = world.create("pods", "default", pod("second")).await;
    world
        .until("the second claim is there", async |world: &World| {
            world.list(CLAIMS).await.len() == 2
        })
        .await;
    assert!(!is_bound(&world, &second).await);
    world
        .edit(&first, |pod| pod["status"]["phase"] = json!("Succeeded"))
        .await;
    world
        .until("the second pod has the device", async |world: &World| {
            is_bound(world, &second).await
        })
        .await;
    world
        .until(
            "the first claim is gone, though its pod is there",
            async |world: &World| {
                let claims = world.list(CLAIMS).await;
                claims.len() == 1 && claims[0].1["status"]["reservedFor"][0]["name"] == "second"
            },
        )
        .await;
    assert!(world.read(&first).await.is_some());
    world.remove(&second).await;
    world
        .until("the second claim went with its pod", async |world: &World| {
            world.list(CLAIMS).await.is_empty()
        })
        .await;
}
