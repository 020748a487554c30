//! Capabilities: which a container gets (pure, decided on the node's side) and how the child gives up the others.

use std::io;
use std::str::FromStr;

use caps::{CapSet, Capability, CapsHashSet};

use super::launch::LaunchFailure;

/// The set of Docker and containerd.
const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// One bit per capability, as the kernel numbers them.
pub type CapabilityMask = u64;

/// All capabilities that this kernel interface knows.
pub fn all() -> CapabilityMask {
    caps::all()
        .iter()
        .fold(0, |mask, capability| mask | capability.bitmask())
}

/// The bit of one capability.
pub fn bit(capability: Capability) -> CapabilityMask {
    capability.bitmask()
}

fn named(name: &str) -> Result<CapabilityMask, String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok(all());
    }
    Capability::from_str(&format!("CAP_{bare}"))
        .map(|capability| capability.bitmask())
        .map_err(|_| format!("{name:?} is not a capability: see capabilities(7), and leave out the prefix CAP_"))
}

/// The bounding set of a container. As with containerd, `ALL` is carried out before single names, so that
/// `drop: [ALL], add: [NET_BIND_SERVICE]` leaves one.
///
/// # Errors
/// A name that is no capability.
pub fn bounding_set(privileged: bool, add: &[String], drop: &[String]) -> Result<CapabilityMask, String> {
    if privileged {
        return Ok(all());
    }
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let mut mask = DEFAULT.iter().fold(0, |mask, capability| mask | capability.bitmask());
    if add.iter().any(|name| is_all(&name)) {
        mask = all();
    }
    if drop.iter().any(|name| is_all(&name)) {
        mask = 0;
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        mask |= named(name)?;
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        mask &= !named(name)?;
    }
    Ok(mask)
}

fn as_set(mask: CapabilityMask) -> CapsHashSet {
    caps::all()
        .into_iter()
        .filter(|capability| mask & capability.bitmask() != 0)
        .collect()
}

/// Drops from the bounding set all that is not in the mask. Needs CAP_SETPCAP: before the change of user.
pub(crate) fn limit_bounding_set(mask: CapabilityMask) -> Result<(), LaunchFailure> {
    for number in 0..64 {
        if mask & (1 << number) != 0 {
            continue;
        }
        // SAFETY: this prctl takes plain numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(()); // past the last capability of this kernel
            }
            return Err(LaunchFailure::kernel("prctl(PR_CAPBSET_DROP)", error));
        }
    }
    Ok(())
}

/// Limits the process's own sets after the change of user: for uid 0 to the mask, for others they are empty already
/// (the kernel cleared them with the change). Inheritable and ambient stay empty.
pub(crate) fn limit_own_sets(mask: CapabilityMask, is_root: bool) -> Result<(), LaunchFailure> {
    let failed = |error: caps::errors::CapsError| LaunchFailure::Kernel {
        operation: "capset".to_owned(),
        reason: error.to_string(),
    };
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    if is_root {
        // What the node process itself lacks (a capability taken away by its own container) cannot be given on.
        let held = caps::read(None, CapSet::Permitted).map_err(failed)?;
        let wanted: CapsHashSet = as_set(mask).intersection(&held).copied().collect();
        caps::set(None, CapSet::Effective, &wanted).map_err(failed)?;
        caps::set(None, CapSet::Permitted, &wanted).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn drop_all_and_add_one_leaves_that_one() {
        let mask = bounding_set(false, &names(&["NET_BIND_SERVICE"]), &names(&["ALL"]));
        assert_eq!(mask, Ok(Capability::CAP_NET_BIND_SERVICE.bitmask()));
    }

    #[test]
    fn the_default_is_the_set_of_docker() {
        assert_eq!(bounding_set(false, &[], &[]), Ok(0xa804_25fb));
    }

    #[test]
    fn names_are_accepted_with_and_without_prefix_and_in_either_case() {
        for name in ["SYS_ADMIN", "CAP_SYS_ADMIN", "sys_admin"] {
            let mask = bounding_set(false, &names(&[name]), &[]).unwrap();
            assert_ne!(mask & Capability::CAP_SYS_ADMIN.bitmask(), 0, "{name}");
        }
        assert!(bounding_set(false, &names(&["NO_SUCH"]), &[]).is_err());
    }

    #[test]
    fn privileged_has_all() {
        assert_eq!(bounding_set(true, &[], &names(&["ALL"])), Ok(all()));
    }
}
