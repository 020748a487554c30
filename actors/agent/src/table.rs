//! The pods of this node that have an actor: the latest API object of each and the way to its mailbox. Shared between the
//! agent, which fills it from the store, and the pods' actors, which register themselves at each start; so that either
//! can be restarted without the other.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::{Mutex, RwLock};
use protocol::runtime::SandboxState;
use protocol::{Cause, Uid};
use ractor::ActorRef;
use supervision::ActorPath;

use crate::pod::actor::PodMessage;
use crate::pod::decide::Event;
use crate::pod::resize::{self, Amounts, Shortage};

/// One pod.
pub struct PodSlot {
    /// Its actor's path.
    pub path: ActorPath,
    /// The API object as last seen.
    pub latest: Mutex<Arc<Pod>>,
    /// What the runtime had of it when the agent started; taken by the actor's first start.
    pub found: Mutex<Option<Found>>,
    /// Whether the API object is gone.
    pub removed: Mutex<bool>,
    /// What set the last change of the API object in motion: the actor's writes and effects carry it on.
    pub cause: Mutex<Cause>,
    /// What the pod was granted by a resize of this process's time; before the first, what its API object tells.
    granted: Mutex<Option<Amounts>>,
    mailbox: Mutex<Option<ActorRef<PodMessage>>>,
}

/// What the runtime had of a pod when the agent started.
pub enum Found {
    /// Nothing.
    Nothing,
    /// A sandbox.
    Sandbox(Box<SandboxState>),
}

impl PodSlot {
    /// A pod without an actor as yet.
    pub fn new(path: ActorPath, pod: Arc<Pod>, found: Found) -> PodSlot {
        PodSlot {
            path,
            latest: Mutex::new(pod),
            found: Mutex::new(Some(found)),
            removed: Mutex::new(false),
            cause: Mutex::new(Cause::default()),
            granted: Mutex::new(None),
            mailbox: Mutex::new(None),
        }
    }

    /// What it has of the node; nothing when it is over.
    fn granted(&self) -> Amounts {
        let latest = Arc::clone(&self.latest.lock());
        let phase = latest.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Amounts::default();
        }
        if let Some(granted) = *self.granted.lock() {
            return granted;
        }
        let mut pod = Pod::clone(&latest);
        resize::grant_as_told(&mut pod);
        pod.spec.as_ref().map(resize::requests).unwrap_or_default()
    }

    /// The actor has started: events go to it from now on.
    pub fn started(&self, actor: ActorRef<PodMessage>) {
        *self.mailbox.lock() = Some(actor);
    }

    /// Hands an event to the actor. One that is between two starts misses it and reads the slot when it starts.
    pub fn send(&self, event: Event) {
        if let Some(actor) = self.mailbox.lock().as_ref() {
            // A stopped actor is started again by its supervisor and reads the newest state.
            let _ = actor.send_message(PodMessage::Event(Box::new(event)));
        }
    }
}

/// All pods of this node, by uid.
#[derive(Default)]
pub struct PodTable {
    slots: RwLock<HashMap<Uid, Arc<PodSlot>>>,
    /// Held while a grant is decided, so that two pods are not given the same room.
    granting: Mutex<()>,
}

impl PodTable {
    /// The slot of a pod.
    pub fn slot(&self, uid: &Uid) -> Option<Arc<PodSlot>> {
        self.slots.read().get(uid).cloned()
    }

    /// Adds a pod.
    pub fn insert(&self, uid: Uid, slot: Arc<PodSlot>) {
        self.slots.write().insert(uid, slot);
    }

    /// Forgets a pod of which nothing is left.
    pub fn remove(&self, uid: &Uid) {
        self.slots.write().remove(uid);
    }

    /// All pods.
    pub fn all(&self) -> Vec<(Uid, Arc<PodSlot>)> {
        self.slots
            .read()
            .iter()
            .map(|(uid, slot)| (uid.clone(), Arc::clone(slot)))
            .collect()
    }

    /// Grants a pod these requests if the node has room for them beside its other pods, or if they do not grow.
    ///
    /// # Errors
    ///
    /// What the node lacks.
    pub fn grant(&self, uid: &Uid, wanted: Amounts, allocatable: Amounts) -> Result<(), Shortage> {
        let _granting = self.granting.lock();
        let mut used = Amounts::default();
        let mut own = None;
        for (other, slot) in self.all() {
            if other == *uid {
                own = Some(slot);
                continue;
            }
            let granted = slot.granted();
            used.cpu_milli = used.cpu_milli.saturating_add(granted.cpu_milli);
            used.memory_bytes = used.memory_bytes.saturating_add(granted.memory_bytes);
        }
        let granted = own.as_ref().map(|slot| slot.granted()).unwrap_or_default();
        resize::room(wanted, granted, used, allocatable)?;
        if let Some(slot) = own {
            *slot.granted.lock() = Some(wanted);
        }
        Ok(())
    }

    /// Whether an actor has this path.
    pub fn has_path(&self, path: &ActorPath) -> bool {
        self.slots.read().values().any(|slot| slot.path == *path)
    }
}
