//! As whom a container runs: the image's `User` and the pod's securityContext, names looked up in the container's own
//! `/etc/passwd` and `/etc/group`. The deciding part is pure; the child reads the two files after the pivot.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use super::launch::{LaunchFailure, UserChoice};

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, for `HOME`.
    pub home: String,
}

/// Decides. A user without entry in `passwd` is allowed when numeric, and has group 0 and home `/`.
///
/// # Errors
/// An unknown name, or uid 0 where it is refused.
pub fn resolve(choice: &UserChoice, passwd: &str, group: &str) -> Result<ResolvedUser, String> {
    let (image_user, image_group) = match choice.image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (choice.image_user.as_str(), None),
    };
    let entry_of = |matches: &dyn Fn(&[&str]) -> bool| -> Option<(u32, u32, String, String)> {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            if fields.len() < 6 || !matches(&fields) {
                return None;
            }
            Some((
                fields[2].parse().ok()?,
                fields[3].parse().ok()?,
                fields[5].to_owned(),
                fields[0].to_owned(),
            ))
        })
    };
    let by_uid = |uid: u32| entry_of(&|fields| fields[2].parse() == Ok(uid));
    let numeric = |uid: u32| match by_uid(uid) {
        Some(entry) => entry,
        None => (uid, 0, "/".to_owned(), String::new()),
    };
    let (uid, own_gid, home, name) = match choice.run_as_user {
        Some(uid) => numeric(uid),
        None if image_user.is_empty() => numeric(0),
        None => match image_user.parse::<u32>() {
            Ok(uid) => numeric(uid),
            Err(_) => entry_of(&|fields| fields[0] == image_user).ok_or_else(|| {
                format!("the image's user {image_user:?} is not in its /etc/passwd: set runAsUser, or fix the image")
            })?,
        },
    };
    if choice.run_as_non_root && uid == 0 {
        return Err(
            "runAsNonRoot is set and the container would run as uid 0: set runAsUser, or use an image \
                    with another user"
                .to_owned(),
        );
    }
    let group_by_name = |wanted: &str| {
        group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(wanted))
                .then(|| fields.nth(1)?.parse::<u32>().ok())
                .flatten()
        })
    };
    let gid = match (choice.run_as_group, image_group) {
        (Some(gid), _) => gid,
        // The image's group belongs to the image's user.
        (None, Some(group)) if choice.run_as_user.is_none() => match group.parse() {
            Ok(gid) => gid,
            Err(_) => group_by_name(group)
                .ok_or_else(|| format!("the image's group {group:?} is not in its /etc/group: set runAsGroup"))?,
        },
        _ => own_gid,
    };
    let mut groups = choice.supplemental_groups.clone();
    if !name.is_empty() {
        groups.extend(memberships(group, &name));
    }
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(ResolvedUser {
        uid,
        gid,
        groups,
        home: if home.is_empty() { "/".to_owned() } else { home },
    })
}

fn memberships<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.len() < 4 || !fields[3].split(',').any(|member| member == user) {
            return None;
        }
        fields[2].parse().ok()
    })
}

/// Reads an account file of the image; absent is empty. A fifo or a device in its place must not hold the start up, and
/// an endless file must not fill the memory.
fn read_account_file(path: &str) -> String {
    const BYTES_MAX: u64 = 1 << 20;
    let mut text = String::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
        && file.take(BYTES_MAX).read_to_string(&mut text).is_err()
    {
        text.clear();
    }
    text
}

/// Resolves inside the container's root.
pub(crate) fn resolve_in_root(choice: &UserChoice) -> Result<ResolvedUser, LaunchFailure> {
    resolve(
        choice,
        &read_account_file("/etc/passwd"),
        &read_account_file("/etc/group"),
    )
    .map_err(LaunchFailure::configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:998::/var/lib/redis:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\ntls:x:101:redis,web\nredis:x:998:\nstaff:x:50:web\n";

    fn image(user: &str) -> UserChoice {
        UserChoice {
            image_user: user.to_owned(),
            ..UserChoice::default()
        }
    }

    #[test]
    fn users_resolve_as_the_image_and_the_pod_say() {
        let cases = [
            (image(""), (0, 0, vec![0], "/root")),
            (image("redis"), (999, 998, vec![101, 998], "/var/lib/redis")),
            (image("redis:staff"), (999, 50, vec![50, 101], "/var/lib/redis")),
            (image("999"), (999, 998, vec![101, 998], "/var/lib/redis")),
            (image("1234"), (1234, 0, vec![0], "/")),
            (image("1234:77"), (1234, 77, vec![77], "/")),
            (
                UserChoice {
                    run_as_user: Some(5),
                    ..image("redis:staff")
                },
                (5, 0, vec![0], "/"),
            ),
            (
                UserChoice {
                    run_as_user: Some(5),
                    run_as_group: Some(6),
                    supplemental_groups: vec![7],
                    ..image("")
                },
                (5, 6, vec![6, 7], "/"),
            ),
        ];
        for (choice, (uid, gid, groups, home)) in cases {
            let expected = ResolvedUser {
                uid,
                gid,
                groups,
                home: home.to_owned(),
            };
            assert_eq!(resolve(&choice, PASSWD, GROUP), Ok(expected), "{choice:?}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        assert!(
            resolve(&image("nobody-here"), PASSWD, GROUP)
                .unwrap_err()
                .contains("/etc/passwd")
        );
        assert!(
            resolve(&image("redis:nogroup"), PASSWD, GROUP)
                .unwrap_err()
                .contains("/etc/group")
        );
        let root = UserChoice {
            run_as_non_root: true,
            ..image("")
        };
        assert!(resolve(&root, PASSWD, GROUP).unwrap_err().contains("runAsNonRoot"));
    }
}
