//! Acting as somebody else: the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-KEY`, the checks that they demand
//! of the real user, and the user that results. After Kubernetes' `endpoints/filters/impersonation.go`. The gateway reads
//! the headers, asks the authorizers each check, and goes on as the resulting user; audit keeps both.

use crate::attributes::{Attributes, ResourceRequest};
use crate::user::{
    ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, Extra, User, service_account_groups, split_service_account,
};

/// The group of the impersonated users' extra values and uids.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Headers that ask for nobody in particular, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpersonationError {
    /// There are other headers, but no user.
    #[error("requested {headers} without impersonating a user")]
    NoUser {
        /// What was asked for, as Kubernetes lists it.
        headers: String,
    },
}

/// One right that the real user must have: the verb `impersonate` on this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImpersonationCheck {
    /// The API group.
    pub group: &'static str,
    /// `users`, `groups`, `serviceaccounts`, `uids`, `userextras`.
    pub resource: &'static str,
    /// The extra's key, for `userextras`.
    pub subresource: String,
    /// The ServiceAccount's namespace.
    pub namespace: String,
    /// The user, group, account, uid or value.
    pub name: String,
}

impl ImpersonationCheck {
    /// What the authorizers are asked.
    pub fn attributes<'a>(&'a self, user: &'a User) -> Attributes<'a> {
        let request = ResourceRequest {
            namespace: &self.namespace,
            group: self.group,
            version: if self.group.is_empty() { "" } else { "v1" },
            resource: self.resource,
            subresource: &self.subresource,
            name: &self.name,
            fields: &[],
        };
        Attributes::resource(user, "impersonate", request)
    }
}

/// What the headers ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    /// All must be allowed; the first that is not refuses the request.
    pub checks: Vec<ImpersonationCheck>,
    /// As whom the request goes on.
    pub user: User,
}

/// Reads a percent-encoded header name, as extra keys are; what is no encoding stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match pair.and_then(|pair| hex::decode(pair).ok()) {
            Some(byte) => {
                decoded.extend(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

/// What the headers say, each kind in the order in which it came.
struct Asked {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: Extra,
}

fn read<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Asked {
    let mut asked = Asked {
        user: String::new(),
        uid: String::new(),
        groups: Vec::new(),
        extra: Extra::new(),
    };
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let Some(rest) = name.strip_prefix("impersonate-") else {
            continue;
        };
        match rest {
            "user" if asked.user.is_empty() => asked.user = value.to_owned(),
            "uid" if asked.uid.is_empty() => asked.uid = value.to_owned(),
            "group" => asked.groups.push(value.to_owned()),
            _ => {
                if let Some(key) = rest.strip_prefix("extra-") {
                    asked
                        .extra
                        .entry(percent_decoded(key))
                        .or_default()
                        .push(value.to_owned());
                }
            }
        }
    }
    asked
}

/// What the request's headers ask for; `None` when they ask for nothing. Headers of other names are skipped.
pub fn impersonation<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Option<Impersonation>, ImpersonationError> {
    let Asked {
        user,
        uid,
        groups,
        extra,
    } = read(headers);
    if user.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let keys: Vec<String> = extra.keys().map(|key| format!("{key:?}")).collect();
        let headers = format!("[{}], groups={groups:?}, uid={uid:?}", keys.join(" "));
        return Err(ImpersonationError::NoUser { headers });
    }
    let account = split_service_account(&user).map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let mut checks = vec![match &account {
        Some((namespace, name)) => ImpersonationCheck {
            resource: "serviceaccounts",
            namespace: namespace.clone(),
            name: name.clone(),
            ..ImpersonationCheck::default()
        },
        None => ImpersonationCheck {
            resource: "users",
            name: user.clone(),
            ..ImpersonationCheck::default()
        },
    }];
    checks.extend(groups.iter().map(|group| ImpersonationCheck {
        resource: "groups",
        name: group.clone(),
        ..ImpersonationCheck::default()
    }));
    for (key, values) in &extra {
        checks.extend(values.iter().map(|value| ImpersonationCheck {
            group: AUTHENTICATION,
            resource: "userextras",
            subresource: key.clone(),
            name: value.clone(),
            ..ImpersonationCheck::default()
        }));
    }
    if !uid.is_empty() {
        checks.push(ImpersonationCheck {
            group: AUTHENTICATION,
            resource: "uids",
            name: uid.clone(),
            ..ImpersonationCheck::default()
        });
    }
    let mut user = User {
        name: user,
        uid,
        groups,
        extra,
    };
    complete_groups(&mut user, account);
    Ok(Some(Impersonation { checks, user }))
}

/// Groups that follow from the name: those of a ServiceAccount when none was asked for, and whether it is anonymous.
fn complete_groups(user: &mut User, account: Option<(String, String)>) {
    if let Some((namespace, _)) = account.filter(|_| user.groups.is_empty()) {
        user.groups.extend(service_account_groups(&namespace));
    }
    if user.name == ANONYMOUS {
        user.add_group(ALL_UNAUTHENTICATED);
    } else if !user.is_in(ALL_UNAUTHENTICATED) {
        user.add_group(ALL_AUTHENTICATED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(headers: &[(&str, &str)]) -> Impersonation {
        impersonation(headers.iter().copied()).unwrap().unwrap()
    }

    fn checks(impersonation: &Impersonation) -> Vec<String> {
        let text = |check: &ImpersonationCheck| {
            format!(
                "{}/{}/{} {}:{}",
                check.group, check.resource, check.subresource, check.namespace, check.name
            )
        };
        impersonation.checks.iter().map(text).collect()
    }

    #[test]
    fn each_header_is_a_right_of_its_own() {
        let asked = ask(&[
            ("Impersonate-User", "ann"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "u1"),
            ("Impersonate-Extra-Scopes", "view"),
            ("Impersonate-Extra-Acme.com%2Fproject", "p"),
            ("Accept", "*/*"),
        ]);
        assert_eq!(
            checks(&asked),
            [
                "/users/ :ann",
                "/groups/ :dev",
                "/groups/ :ops",
                "authentication.k8s.io/userextras/acme.com/project :p",
                "authentication.k8s.io/userextras/scopes :view",
                "authentication.k8s.io/uids/ :u1",
            ]
        );
        assert_eq!(asked.user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!((asked.user.name.as_str(), asked.user.uid.as_str()), ("ann", "u1"));
        let real = User::authenticated("root", ["x"]);
        assert_eq!(
            crate::attributes::refusal_text(&asked.checks[0].attributes(&real)),
            r#"User "root" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
    }

    #[test]
    fn a_service_account_has_its_groups() {
        let asked = ask(&[("impersonate-user", "system:serviceaccount:d:web")]);
        assert_eq!(checks(&asked), ["/serviceaccounts/ d:web"]);
        assert_eq!(
            asked.user.groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:d",
                "system:authenticated"
            ]
        );
        let asked = ask(&[
            ("impersonate-user", "system:serviceaccount:d:web"),
            ("impersonate-group", "x"),
        ]);
        assert_eq!(asked.user.groups, ["x", "system:authenticated"]);
    }

    #[test]
    fn the_anonymous_user_stays_unauthenticated() {
        assert_eq!(
            ask(&[("Impersonate-User", ANONYMOUS)]).user.groups,
            [ALL_UNAUTHENTICATED]
        );
    }

    #[test]
    fn groups_without_a_user_are_an_error() {
        assert_eq!(impersonation([("accept", "x")]), Ok(None));
        for header in ["Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-a"] {
            let error = impersonation([(header, "x")]).unwrap_err();
            assert!(error.to_string().contains("without impersonating a user"), "{error}");
        }
    }

    #[test]
    fn percent_encoding_that_is_none_stays() {
        for (text, expected) in [("a%2fb", "a/b"), ("a%2", "a%2"), ("%zz", "%zz"), ("%", "%"), ("", "")] {
            assert_eq!(percent_decoded(text), expected);
        }
    }
}
