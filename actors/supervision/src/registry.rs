//! The shell's view of every actor of this node: a tree of paths with what each actor is and does at present. Actors
//! write into it through their `ActorView`; the node process answers `AdminRequest`s from it. It never decides anything:
//! an actor works the same when nobody looks.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use protocol::UnixMillis;
use protocol::admin::{ActorEntry, AdminError, AdminReply, AdminRequest};
use ractor::ActorCell;
use serde_json::json;
use tokio::sync::oneshot;

use crate::mailbox::{AdminInbox, AdminMessage};
use crate::{ActorPath, Clock, SystemClock};

/// How long an actor may take to answer the shell.
const ADMIN_DEADLINE: Duration = Duration::from_secs(5);
/// How many siblings an error names.
const NEAR_MAX: usize = 10;

/// Whether an actor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It has a mailbox.
    Running,
    /// It has none and wakes on the next message.
    Asleep,
    /// It ended too often and waits before its next start.
    BackingOff,
}

impl RunState {
    /// The word in an `ActorEntry`.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Asleep => "asleep",
            RunState::BackingOff => "backing-off",
        }
    }

    fn from_code(code: u8) -> RunState {
        match code {
            0 => RunState::Running,
            1 => RunState::Asleep,
            _ => RunState::BackingOff,
        }
    }
}

/// Actors without an entry of their own, because they sleep and only their directory knows them.
pub trait Sleepers: Send + Sync + 'static {
    /// The sleeping actors directly below a path.
    fn children(&self, path: &ActorPath) -> Vec<ActorEntry>;

    /// The entry of a sleeping actor.
    fn find(&self, path: &ActorPath) -> Option<ActorEntry>;

    /// Wakes it with a message: what it answers goes where the message says. False when no actor sleeps there.
    fn wake(&self, path: &ActorPath, message: AdminMessage) -> bool;
}

struct Entry {
    kind: Arc<str>,
    state: AtomicU8,
    restarts: AtomicU64,
    messages: AtomicU64,
    started_ms: AtomicU64,
    summary: Mutex<String>,
    running: Mutex<Option<Running>>,
}

struct Running {
    cell: ActorCell,
    inbox: Arc<dyn AdminInbox>,
}

#[derive(Default)]
struct Tree {
    entries: RwLock<BTreeMap<ActorPath, Arc<Entry>>>,
    sleepers: RwLock<Vec<(ActorPath, Arc<dyn Sleepers>)>>,
}

/// The tree. Clones share it.
#[derive(Clone)]
pub struct Registry {
    tree: Arc<Tree>,
    clock: Arc<dyn Clock>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new(Arc::new(SystemClock))
    }
}

/// What an actor writes into the registry about itself. Clones share the entry. It outlives a restart of the actor and
/// does not remove the entry when dropped: `Registration` does.
#[derive(Clone)]
pub struct ActorView {
    path: ActorPath,
    entry: Arc<Entry>,
}

/// Keeps an entry in the registry until it is dropped. Whoever supervises the actor holds it.
pub struct Registration {
    registry: Registry,
    view: ActorView,
}

/// Keeps a directory of sleeping actors in the registry until it is dropped.
pub struct SleepersGuard {
    registry: Registry,
    sleepers: Arc<dyn Sleepers>,
}

impl Drop for SleepersGuard {
    fn drop(&mut self) {
        // A newer directory of the same path stays.
        self.registry
            .tree
            .sleepers
            .write()
            .retain(|(_, sleepers)| !Arc::ptr_eq(sleepers, &self.sleepers));
    }
}

impl Registry {
    /// An empty tree.
    pub fn new(clock: Arc<dyn Clock>) -> Registry {
        Registry {
            tree: Arc::default(),
            clock,
        }
    }

    /// Makes an entry. A former one at the same path is replaced.
    pub fn register(&self, path: ActorPath, kind: &str) -> Registration {
        let entry = Arc::new(Entry {
            kind: kind.into(),
            state: AtomicU8::new(RunState::Running as u8),
            restarts: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            started_ms: AtomicU64::new(self.clock.now().0),
            summary: Mutex::default(),
            running: Mutex::new(None),
        });
        self.tree.entries.write().insert(path.clone(), Arc::clone(&entry));
        Registration {
            registry: self.clone(),
            view: ActorView { path, entry },
        }
    }

    /// Adds a directory of sleeping actors below `path`, until the guard is dropped. One that was added for the same path
    /// before is replaced.
    pub fn add_sleepers(&self, path: ActorPath, sleepers: Arc<dyn Sleepers>) -> SleepersGuard {
        let mut all = self.tree.sleepers.write();
        all.retain(|(other, _)| *other != path);
        all.push((path, Arc::clone(&sleepers)));
        SleepersGuard {
            registry: self.clone(),
            sleepers,
        }
    }

    /// All entries, in the order of their paths; sleeping actors without an entry are not among them.
    pub fn entries(&self) -> Vec<ActorEntry> {
        let entries = self.tree.entries.read();
        entries
            .iter()
            .map(|(path, entry)| self.describe(&entries, path, entry))
            .collect()
    }

    /// The entry at a path, also of a sleeping actor.
    pub fn find(&self, path: &ActorPath) -> Option<ActorEntry> {
        let entries = self.tree.entries.read();
        match entries.get(path) {
            Some(entry) => Some(self.describe(&entries, path, entry)),
            None => self.sleeping(path, |sleepers| sleepers.find(path)),
        }
    }

    /// Carries out a request about an actor of this node. `Members` and `Leader` are not about one: the node process
    /// answers them.
    pub async fn serve(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        match request {
            AdminRequest::Ls { path } => self.list(&parse(&path)?),
            AdminRequest::Tree { path, depth } => self.subtree(&parse(&path)?, depth),
            AdminRequest::Ask { path, question } => {
                let text = question.clone();
                let answer = self
                    .say(&path, &question, |reply| AdminMessage::Ask { question: text, reply })
                    .await?;
                Ok(AdminReply::Json(answer))
            }
            AdminRequest::Tell { path, message } => {
                let text = message.clone();
                let answer = self
                    .say(&path, &message, |reply| AdminMessage::Tell { message: text, reply })
                    .await?;
                Ok(AdminReply::Done(answer))
            }
            AdminRequest::Stats { path } => self.stats(&parse(&path)?),
            AdminRequest::Kill { path } => self.kill(&parse(&path)?),
            AdminRequest::Members | AdminRequest::Leader => Err(AdminError::NotUnderstood {
                path: "/".to_owned(),
                message: "members".to_owned(),
                understands: "ls, tree, ask, tell, stats, kill (members and leader are asked of the node)".to_owned(),
            }),
        }
    }

    fn list(&self, path: &ActorPath) -> Result<AdminReply, AdminError> {
        let children = self.children(path);
        if children.is_empty() && !self.exists(path) {
            return Err(self.no_such(path));
        }
        Ok(AdminReply::Actors(children.into_values().collect()))
    }

    fn subtree(&self, path: &ActorPath, depth: u32) -> Result<AdminReply, AdminError> {
        if !self.exists(path) {
            return Err(self.no_such(path));
        }
        let mut found = Vec::new();
        found.extend(self.find(path));
        let mut open = vec![(path.clone(), 1)];
        while let Some((above, level)) = open.pop() {
            if depth != 0 && level > depth {
                continue;
            }
            for (child, entry) in self.children(&above) {
                found.push(entry);
                open.push((child, level + 1));
            }
        }
        found.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
        Ok(AdminReply::Actors(found))
    }

    /// The paths one level below, also those that are only part of a longer path.
    fn children(&self, path: &ActorPath) -> BTreeMap<ActorPath, ActorEntry> {
        let mut found = BTreeMap::new();
        {
            let entries = self.tree.entries.read();
            for (below, entry) in descendants(&entries, path) {
                let child = child_towards(path, below);
                if child == *below {
                    found.insert(child.clone(), self.describe(&entries, &child, entry));
                } else {
                    found.entry(child.clone()).or_insert_with(|| folder(&child));
                }
            }
        }
        for (root, sleepers) in self.tree.sleepers.read().iter() {
            if root.is_below(path) {
                let child = child_towards(path, root);
                found.entry(child.clone()).or_insert_with(|| folder(&child));
            } else if root == path || path.is_below(root) {
                for entry in sleepers.children(path) {
                    if let Ok(child) = ActorPath::parse(&entry.path) {
                        found.entry(child).or_insert(entry);
                    }
                }
            }
        }
        found
    }

    fn exists(&self, path: &ActorPath) -> bool {
        *path == ActorPath::root() || self.find(path).is_some() || !self.children(path).is_empty()
    }

    fn sleeping<T>(&self, path: &ActorPath, ask: impl Fn(&dyn Sleepers) -> Option<T>) -> Option<T> {
        let all = self.tree.sleepers.read();
        all.iter()
            .filter(|(root, _)| path.is_below(root))
            .find_map(|(_, sleepers)| ask(sleepers.as_ref()))
    }

    async fn say(
        &self,
        path: &str,
        said: &str,
        message: impl FnOnce(oneshot::Sender<Result<String, String>>) -> AdminMessage,
    ) -> Result<String, AdminError> {
        let path = parse(path)?;
        let no_answer = |reason: &str| AdminError::NoAnswer {
            path: path.to_string(),
            reason: reason.to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        let entry = self.tree.entries.read().get(&path).cloned();
        match entry {
            Some(entry) => {
                let inbox = entry.running.lock().as_ref().map(|running| Arc::clone(&running.inbox));
                let inbox = inbox.ok_or_else(|| no_answer("it is between two starts; see stats"))?;
                if !inbox.deliver(message(reply)) {
                    return Err(no_answer("it has just stopped"));
                }
            }
            None => {
                let sleepers = self.sleepers_of(&path).ok_or_else(|| self.no_such(&path))?;
                if !sleepers.wake(&path, message(reply)) {
                    return Err(self.no_such(&path));
                }
            }
        }
        match tokio::time::timeout(ADMIN_DEADLINE, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(understands))) => Err(AdminError::NotUnderstood {
                path: path.to_string(),
                message: said.to_owned(),
                understands,
            }),
            Ok(Err(_)) => Err(no_answer("it ended before it answered")),
            Err(_) => Err(no_answer("its mailbox is busy: no answer within 5 s")),
        }
    }

    fn sleepers_of(&self, path: &ActorPath) -> Option<Arc<dyn Sleepers>> {
        let all = self.tree.sleepers.read();
        let candidates = all.iter().filter(|(root, _)| path.is_below(root));
        candidates
            .map(|(_, sleepers)| sleepers)
            .find(|sleepers| sleepers.find(path).is_some())
            .cloned()
    }

    fn stats(&self, path: &ActorPath) -> Result<AdminReply, AdminError> {
        let described = self.find(path).ok_or_else(|| self.no_such(path))?;
        let entry = self.tree.entries.read().get(path).cloned();
        let load = |counter: fn(&Entry) -> &AtomicU64| {
            entry.as_ref().map_or(0, |entry| counter(entry).load(Ordering::Relaxed))
        };
        let age_ms = entry
            .as_ref()
            .map(|_| self.clock.now().since_ms(UnixMillis(load(|entry| &entry.started_ms))));
        let stats = json!({
            "path": described.path, "kind": described.kind, "state": described.state, "summary": described.summary,
            "restarts": described.restarts, "children": described.children,
            "messages": load(|entry| &entry.messages), "ageMs": age_ms,
        });
        Ok(AdminReply::Json(stats.to_string()))
    }

    fn kill(&self, path: &ActorPath) -> Result<AdminReply, AdminError> {
        let no_answer = |reason: &str| {
            Err(AdminError::NoAnswer {
                path: path.to_string(),
                reason: reason.to_owned(),
            })
        };
        let Some(entry) = self.tree.entries.read().get(path).cloned() else {
            if self.find(path).is_some() {
                return no_answer("it is asleep: there is nothing to kill (ask or tell wakes it)");
            }
            return Err(self.no_such(path));
        };
        let cell = entry.running.lock().as_ref().map(|running| running.cell.clone());
        match cell {
            Some(cell) => {
                cell.kill();
                Ok(AdminReply::Done(format!("killed {path}")))
            }
            None => no_answer("it is between two starts: there is nothing to kill"),
        }
    }

    fn no_such(&self, path: &ActorPath) -> AdminError {
        let mut above = path.parent();
        while let Some(candidate) = above {
            let near: Vec<String> = self
                .children(&candidate)
                .keys()
                .take(NEAR_MAX)
                .map(ToString::to_string)
                .collect();
            if !near.is_empty() {
                return AdminError::NoSuchPath {
                    path: path.to_string(),
                    near,
                };
            }
            above = candidate.parent();
        }
        AdminError::NoSuchPath {
            path: path.to_string(),
            near: Vec::new(),
        }
    }

    fn describe(&self, entries: &BTreeMap<ActorPath, Arc<Entry>>, path: &ActorPath, entry: &Entry) -> ActorEntry {
        let direct = descendants(entries, path)
            .filter(|(below, _)| below.depth() == path.depth() + 1)
            .count();
        ActorEntry {
            path: path.to_string(),
            kind: entry.kind.to_string(),
            state: RunState::from_code(entry.state.load(Ordering::Relaxed))
                .as_str()
                .to_owned(),
            summary: entry.summary.lock().clone(),
            restarts: entry.restarts.load(Ordering::Relaxed),
            children: direct as u64,
        }
    }
}

impl ActorView {
    /// Its path.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// One line on what the actor does at present.
    pub fn summarize(&self, summary: impl Into<String>) {
        *self.entry.summary.lock() = summary.into();
    }

    /// Counts a message that the actor has received.
    pub fn count_message(&self) {
        self.entry.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// How many messages were counted, over all starts.
    pub fn messages(&self) -> u64 {
        self.entry.messages.load(Ordering::Relaxed)
    }

    /// Notes whether the actor runs.
    pub fn set_state(&self, state: RunState) {
        self.entry.state.store(state as u8, Ordering::Relaxed);
    }
}

impl Registration {
    /// What the actor gets.
    pub fn view(&self) -> ActorView {
        self.view.clone()
    }

    /// The actor runs: its mailbox for admin messages.
    pub fn running(&self, cell: ActorCell, inbox: Arc<dyn AdminInbox>) {
        *self.view.entry.running.lock() = Some(Running { cell, inbox });
        self.view
            .entry
            .started_ms
            .store(self.registry.clock.now().0, Ordering::Relaxed);
        self.view.set_state(RunState::Running);
    }

    /// The actor has ended; `restarts` so far.
    pub fn ended(&self, state: RunState, restarts: u64) {
        *self.view.entry.running.lock() = None;
        self.view.entry.restarts.store(restarts, Ordering::Relaxed);
        self.view.set_state(state);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut entries = self.registry.tree.entries.write();
        // A newer registration of the same path keeps its entry.
        if entries
            .get(&self.view.path)
            .is_some_and(|entry| Arc::ptr_eq(entry, &self.view.entry))
        {
            entries.remove(&self.view.path);
        }
    }
}

fn parse(path: &str) -> Result<ActorPath, AdminError> {
    ActorPath::parse(path).map_err(|error| AdminError::NoSuchPath {
        path: error.to_string(),
        near: Vec::new(),
    })
}

/// All entries below a path. Paths order by bytes and `-` sorts before `/`, so siblings such as `/a-b` may stand between
/// `/a` and `/a/c`: the range begins at the path's own slash.
fn descendants<'tree>(
    entries: &'tree BTreeMap<ActorPath, Arc<Entry>>,
    path: &ActorPath,
) -> impl Iterator<Item = (&'tree ActorPath, &'tree Arc<Entry>)> {
    let prefix = if *path == ActorPath::root() {
        "/".to_owned()
    } else {
        format!("{path}/")
    };
    let first = path.child("\u{1}");
    entries
        .range((Bound::Included(first), Bound::Unbounded))
        .take_while(move |(below, _)| below.as_str().starts_with(&prefix))
}

/// The child of `above` on the way to `below`.
fn child_towards(above: &ActorPath, below: &ActorPath) -> ActorPath {
    let skip = if *above == ActorPath::root() {
        1
    } else {
        above.as_str().len() + 1
    };
    let segment = below.as_str()[skip..].split('/').next().unwrap_or_default();
    above.child(segment)
}

/// A level of the tree that is no actor itself, such as a namespace.
fn folder(path: &ActorPath) -> ActorEntry {
    ActorEntry {
        path: path.to_string(),
        kind: "folder".to_owned(),
        state: String::new(),
        summary: String::new(),
        restarts: 0,
        children: 0,
    }
}
