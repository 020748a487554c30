//! Which pod has which address of the node's range, kept on disk.
//!
//! Owned by the links worker. One file per address under the state directory, named after the address and created with its
//! content in one step by `link(2)`, which fails if the address is taken: an address is never given out twice, whatever crashes.
//! A record outlives the node process, as the pods do. The choice is pure ([`choose`]); this module never touches links.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::Ipv4Cidr;

/// Why an address could not be given or its record not be kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IpamError {
    /// Every address is in use.
    #[error(
        "no free pod address: all {capacity} addresses of {cidr} are in use. Delete pods or give the node a larger pod range"
    )]
    Exhausted {
        /// The node's range.
        cidr: Ipv4Cidr,
        /// How many pods fit into it.
        capacity: u64,
    },
    /// The records could not be read or written.
    #[error("cannot {action} the address record {path}: {source}")]
    Record {
        /// What was attempted.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What a record file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pod_uid: String,
}

/// The first free address after `last`, going round. Addresses are used again as late as possible, so that connections and
/// neighbour entries of a dead pod have aged out before its address returns. The network's, the gateway's and the broadcast
/// address are never chosen.
pub(crate) fn choose(cidr: Ipv4Cidr, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    const FIRST_POD: u64 = 2;
    let end = cidr.size().checked_sub(1)?;
    let capacity = end.checked_sub(FIRST_POD).filter(|capacity| *capacity > 0)?;
    let start = match last {
        Some(last) if cidr.contains(last) => {
            let offset = u64::from(u32::from(last) - u32::from(cidr.network()));
            (offset + 1).saturating_sub(FIRST_POD) % capacity
        }
        _ => 0,
    };
    (0..capacity)
        .map(|step| FIRST_POD + (start + step) % capacity)
        .filter_map(|offset| cidr.nth(offset))
        .find(|address| !taken(*address))
}

/// The addresses of one node's range that are in use, and by which pod.
#[derive(Debug)]
pub struct AddressBook {
    cidr: Ipv4Cidr,
    directory: PathBuf,
    by_address: BTreeMap<Ipv4Addr, String>,
    by_pod: HashMap<String, Ipv4Addr>,
    /// Free on disk, but not to be given out before the old link is gone. A new process removes such links first.
    resting: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl AddressBook {
    /// Reads the records under `directory`, which is created if it is missing. Files that hold no record (a machine that lost
    /// power while writing one; the pod is gone then, too) and addresses outside the range are removed.
    pub fn open(cidr: Ipv4Cidr, directory: &Path) -> Result<Self, IpamError> {
        fs::create_dir_all(directory).map_err(|source| record_error("create the directory of", directory, source))?;
        let mut book = Self {
            cidr,
            directory: directory.to_owned(),
            by_address: BTreeMap::new(),
            by_pod: HashMap::new(),
            resting: BTreeSet::new(),
            last: None,
        };
        let entries = fs::read_dir(directory).map_err(|source| record_error("list", directory, source))?;
        for entry in entries {
            let path = entry.map_err(|source| record_error("list", directory, source))?.path();
            match book.read_record(&path) {
                Some((address, pod_uid)) => book.remember(address, pod_uid),
                None => {
                    tracing::warn!(path = %path.display(), "removing a file that is no valid address record");
                    fs::remove_file(&path).map_err(|source| record_error("remove", &path, source))?;
                }
            }
        }
        Ok(book)
    }

    fn read_record(&self, path: &Path) -> Option<(Ipv4Addr, String)> {
        let address: Ipv4Addr = path.file_name()?.to_str()?.parse().ok()?;
        let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let known = self.by_pod.contains_key(&record.pod_uid);
        (self.cidr.contains(address) && !known).then_some((address, record.pod_uid))
    }

    fn remember(&mut self, address: Ipv4Addr, pod_uid: String) {
        self.by_pod.insert(pod_uid.clone(), address);
        self.by_address.insert(address, pod_uid);
        self.last = self.last.max(Some(address));
    }

    /// The address of a pod.
    pub fn address_of(&self, pod_uid: &str) -> Option<Ipv4Addr> {
        self.by_pod.get(pod_uid).copied()
    }

    /// All pods and their addresses, by address.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &str)> {
        self.by_address.iter().map(|(address, pod)| (*address, pod.as_str()))
    }

    /// Gives the pod an address and records it. A pod that has one gets the same again.
    pub fn allocate(&mut self, pod_uid: &str) -> Result<Ipv4Addr, IpamError> {
        if let Some(address) = self.address_of(pod_uid) {
            return Ok(address);
        }
        let exhausted = IpamError::Exhausted {
            cidr: self.cidr,
            capacity: self.cidr.size().saturating_sub(3),
        };
        let address = choose(self.cidr, self.last, |candidate| {
            self.by_address.contains_key(&candidate) || self.resting.contains(&candidate)
        })
        .ok_or(exhausted)?;
        self.write_record(address, pod_uid)?;
        self.by_pod.insert(pod_uid.to_owned(), address);
        self.by_address.insert(address, pod_uid.to_owned());
        self.last = Some(address);
        Ok(address)
    }

    fn write_record(&self, address: Ipv4Addr, pod_uid: &str) -> Result<(), IpamError> {
        let path = self.directory.join(address.to_string());
        let draft = self.directory.join(format!("{address}.draft"));
        let record = Record {
            pod_uid: pod_uid.to_owned(),
        };
        // A string always serialises.
        let content = serde_json::to_vec(&record).unwrap_or_default();
        fs::write(&draft, content).map_err(|source| record_error("write", &draft, source))?;
        let linked = fs::hard_link(&draft, &path).map_err(|source| record_error("create", &path, source));
        // A draft that stays behind is removed by the next opening: its name is no address.
        let _ = fs::remove_file(&draft);
        linked
    }

    /// Forgets the pod, but keeps its address from being given out until [`AddressBook::wake`].
    pub(crate) fn release_later(&mut self, pod_uid: &str) -> Result<Option<Ipv4Addr>, IpamError> {
        let released = self.release(pod_uid)?;
        self.resting.extend(released);
        Ok(released)
    }

    /// Lets a resting address be given out again.
    pub(crate) fn wake(&mut self, address: Ipv4Addr) {
        self.resting.remove(&address);
    }

    /// Forgets the pod and frees its address; returns the address that it had.
    pub fn release(&mut self, pod_uid: &str) -> Result<Option<Ipv4Addr>, IpamError> {
        let Some(address) = self.address_of(pod_uid) else {
            return Ok(None);
        };
        let path = self.directory.join(address.to_string());
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(record_error("remove", &path, source)),
        }
        self.by_pod.remove(pod_uid);
        self.by_address.remove(&address);
        Ok(Some(address))
    }
}

fn record_error(action: &'static str, path: &Path, source: io::Error) -> IpamError {
    IpamError::Record {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Ipv4Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn the_choice_goes_round_and_spares_reserved_addresses() {
        let range = cidr("10.0.0.0/29");
        let at = |d| Ipv4Addr::new(10, 0, 0, d);
        let cases: [(Option<Ipv4Addr>, &[u8], Option<u8>); 7] = [
            (None, &[], Some(2)),
            (Some(at(2)), &[2], Some(3)),
            (Some(at(6)), &[6], Some(2)),
            (Some(at(6)), &[2, 3, 6], Some(4)),
            (Some(at(3)), &[2, 3, 4, 5, 6], None),
            (Some(Ipv4Addr::new(9, 9, 9, 9)), &[], Some(2)),
            (Some(at(4)), &[2, 3, 4, 5], Some(6)),
        ];
        for (last, taken, expected) in cases {
            let chosen = choose(range, last, |address| taken.contains(&address.octets()[3]));
            assert_eq!(chosen, expected.map(at), "last {last:?}, taken {taken:?}");
        }
        assert_eq!(choose(cidr("10.0.0.0/31"), None, |_| false), None);
        assert_eq!(choose(cidr("10.0.0.0/32"), None, |_| false), None);
        assert_eq!(choose(cidr("10.0.0.0/30"), None, |_| false), Some(at(2)));
    }

    #[test]
    fn records_survive_a_restart_and_drafts_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = AddressBook::open(cidr("10.0.0.0/24"), directory.path()).unwrap();
        let a = book.allocate("a").unwrap();
        let b = book.allocate("b").unwrap();
        assert_ne!(a, b);
        assert_eq!(book.allocate("a").unwrap(), a);
        drop(book);
        fs::write(directory.path().join("10.0.0.77"), b"").unwrap();
        fs::write(directory.path().join("10.0.0.78.draft"), b"{}").unwrap();
        fs::write(directory.path().join("10.9.0.1"), br#"{"pod_uid":"stray"}"#).unwrap();

        let mut book = AddressBook::open(cidr("10.0.0.0/24"), directory.path()).unwrap();
        assert_eq!(book.iter().collect::<Vec<_>>(), vec![(a, "a"), (b, "b")]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(book.release("a").unwrap(), Some(a));
        assert_eq!(book.release("a").unwrap(), None);
        let c = book.allocate("c").unwrap();
        assert!(c > b, "a freed address is used again last, but {c} was given after {b}");
    }

    #[test]
    fn a_resting_address_is_not_given_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = AddressBook::open(cidr("10.0.0.0/30"), directory.path()).unwrap();
        let only = book.allocate("a").unwrap();
        assert_eq!(book.release_later("a").unwrap(), Some(only));
        assert_eq!(book.address_of("a"), None);
        assert!(matches!(book.allocate("b"), Err(IpamError::Exhausted { .. })));
        book.wake(only);
        assert_eq!(book.allocate("b").unwrap(), only);
    }

    #[test]
    fn a_full_range_is_refused_with_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = AddressBook::open(cidr("10.0.0.0/29"), directory.path()).unwrap();
        for pod in 0..5 {
            book.allocate(&pod.to_string()).unwrap();
        }
        let error = book.allocate("one too many").unwrap_err().to_string();
        assert!(error.contains("all 5 addresses of 10.0.0.0/29"), "{error}");
        book.release("3").unwrap();
        book.allocate("one too many").unwrap();
    }

    #[test]
    fn an_address_recorded_by_another_process_is_not_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = AddressBook::open(cidr("10.0.0.0/24"), directory.path()).unwrap();
        let mut second = AddressBook::open(cidr("10.0.0.0/24"), directory.path()).unwrap();
        first.allocate("a").unwrap();
        assert!(matches!(second.allocate("b"), Err(IpamError::Record { .. })));
    }

    proptest! {
        #[test]
        fn no_address_is_ever_shared(operations in prop::collection::vec((any::<bool>(), 0u8..40), 1..80)) {
            let directory = tempfile::tempdir().unwrap();
            let range = cidr("10.0.0.0/27");
            let mut book = AddressBook::open(range, directory.path()).unwrap();
            for (allocate, pod) in operations {
                if allocate {
                    let _ = book.allocate(&pod.to_string());
                } else {
                    book.release(&pod.to_string()).unwrap();
                }
                let pods: BTreeSet<&str> = book.iter().map(|(_, pod)| pod).collect();
                prop_assert_eq!(pods.len(), book.iter().count());
                prop_assert!(book.iter().all(|(address, _)| range.contains(address) && address.octets()[3] >= 2 && address.octets()[3] < 31));
            }
            let before: Vec<_> = book.iter().map(|(address, pod)| (address, pod.to_owned())).collect();
            let reopened = AddressBook::open(range, directory.path()).unwrap();
            let after: Vec<_> = reopened.iter().map(|(address, pod)| (address, pod.to_owned())).collect();
            prop_assert_eq!(before, after);
        }
    }
}
