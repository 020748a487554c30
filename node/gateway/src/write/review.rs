//! New objects of the control plane on their way past webhooks and policies: the same that judge clients' objects. The built-in
//! plugins have admitted them already; what webhooks make of them is judged by those again.

use api::cause::Causes;
use api::kinds;
use api::status::Status;
use api::write::Admission;
use protocol::{Cause, Key};
use serde_json::Value;

use access::User;
use admission::Operation;

use super::{Circumstances, Writer};
use crate::audit::Notes;
use crate::route::Target;

impl Writer {
    /// Whether there are webhooks or policies to ask.
    pub fn asks(&self) -> bool {
        !self.policy.asking().configured.is_empty()
    }

    /// A new object of the control plane as it may be stored.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub async fn review_created(&self, key: &Key, object: Value, with: &Circumstances) -> Result<Value, Status> {
        let kind = kinds::find_by_resource(&key.resource).ok_or_else(Status::no_such_resource)?;
        let target = Target {
            kind,
            namespace: key.namespace.to_string(),
            name: Some(key.name.to_string()),
            subresource: None,
        };
        let gate = self.gate(&target, Operation::Create, &object, with).await?;
        let mut reviewed = gate
            .decide(|| {
                let mut object = object.clone();
                gate.admit(&mut object, None).map(|()| object)
            })
            .await?;
        if reviewed != object {
            let mut causes = Causes::default();
            (kind.validate)(&reviewed, &mut causes);
            if !causes.is_empty() {
                return Err(Status::invalid(kind, &key.name, causes.0));
            }
        }
        // What quotas are charged stands beside the object already.
        gate.judge_uncharged(&mut reviewed, None).await?;
        Ok(reviewed)
    }
}

impl Circumstances {
    /// Those of the control plane's own writes.
    pub fn of_control_plane(now: protocol::UnixMillis, uid: String, random: u64, cause: Cause) -> Circumstances {
        Circumstances {
            now,
            uid,
            random,
            manager: "actorium-control-plane".to_owned(),
            user: User::authenticated("system:kube-controller-manager", [] as [&str; 0]),
            validation: api::write::FieldValidation::Ignore,
            dry_run: false,
            named_manager: String::new(),
            cause,
            notes: Notes::default(),
        }
    }
}
