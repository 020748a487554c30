//! From intents to drafts: whole objects, defaulted and validated as the gateway would do it, with uids and names from a
//! seeded generator. Pure: time and randomness come in. Used by `Activation` and by the control plane's default objects.

use admission::{Attributes, Charge, Facts, Operation, Outcome, Review};
use api::kinds::Kind;
use api::status::Status;
use api::write::name_suffix;
use protocol::object::DraftError;
use protocol::store::{Precondition, Write};
use protocol::{Draft, Key, Object, Resource, Revision, Uid, UnixMillis};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::Value;

/// Who writes, in `managedFields` and audit.
const FIELD_MANAGER: &str = "actorium-control-plane";
const USER: &str = "system:kube-controller-manager";

/// Why an object cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// The table of kinds has no such resource.
    #[error("no kind is known for the resource {0}")]
    UnknownResource(Resource),
    /// The object is invalid: a template that became so, mostly.
    #[error("{0}")]
    Invalid(String),
    /// It does not encode.
    #[error(transparent)]
    Draft(#[from] DraftError),
}

/// A new object that nobody admits: the cluster's own.
pub fn create(
    resource: &Resource,
    namespace: &str,
    value: Value,
    now: UnixMillis,
    rng: &mut SmallRng,
) -> Result<(Key, Draft), ComposeError> {
    compose(resource, namespace, value, now, rng, None).map(|composed| (composed.key, composed.draft))
}

/// A new object, and the charges that are written with it.
pub(crate) struct Composed {
    pub(crate) key: Key,
    pub(crate) draft: Draft,
    pub(crate) charges: Vec<Write>,
}

/// A new object as admission lets it pass, as a client's would: with the policy objects of this moment, or without any.
pub(crate) fn compose(
    resource: &Resource,
    namespace: &str,
    value: Value,
    now: UnixMillis,
    rng: &mut SmallRng,
    facts: Option<&Facts>,
) -> Result<Composed, ComposeError> {
    let kind = api::kinds::find_by_resource(resource).ok_or_else(|| ComposeError::UnknownResource(resource.clone()))?;
    let (uid, suffix) = (Uid::from_bits(rng.random()), name_suffix(rng.random()));
    let gate = facts.map(|facts| Gate {
        facts,
        kind,
        namespace,
        random: rng.random(),
    });
    let context = api::write::WriteContext {
        now,
        new_uid: uid.as_str(),
        random_suffix: &suffix,
        field_manager: FIELD_MANAGER,
        field_validation: api::write::FieldValidation::Ignore,
        user: USER,
        groups: &[],
        duplicate_fields: &[],
        admission: gate.as_ref().map(|gate| gate as &dyn api::write::Admission),
    };
    let refused = |status: Status| ComposeError::Invalid(status.message.clone());
    let mut object = api::write::prepare_create(kind, namespace, value, &context)
        .map_err(refused)?
        .object;
    let charged = match &gate {
        Some(gate) => {
            gate.run(admission::validate, &mut object).map_err(refused)?;
            gate.run(admission::charge, &mut object).map_err(refused)?
        }
        None => Outcome::default(),
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Ok(Composed {
        key: Key::new(resource.clone(), namespace, name),
        draft: kind.draft(&object)?,
        charges: charged
            .charges
            .into_iter()
            .map(Charge::write)
            .collect::<Result<_, _>>()?,
    })
}

/// The way of the control plane's own objects through admission.
#[derive(Debug)]
struct Gate<'a> {
    facts: &'a Facts,
    kind: &'a Kind,
    namespace: &'a str,
    random: u64,
}

impl api::write::Admission for Gate<'_> {
    fn admit(&self, object: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        self.run(admission::admit, object).map(|_| ())
    }
}

impl Gate<'_> {
    fn run(
        &self,
        plugins: fn(&mut Review<'_>, &Facts) -> Result<(), Status>,
        object: &mut Value,
    ) -> Result<Outcome, Status> {
        let attributes = Attributes {
            operation: Operation::Create,
            kind: self.kind,
            namespace: self.namespace,
            name: "",
            subresource: None,
            user: USER,
            groups: &[],
            random: self.random,
        };
        admission::run(plugins, &attributes, object, None, self.facts)
    }
}

/// A changed object. Its content was made from the stored one by an edit, so it is encoded as it is.
pub fn update(resource: &Resource, value: &Value) -> Result<Draft, ComposeError> {
    let kind = api::kinds::find_by_resource(resource).ok_or_else(|| ComposeError::UnknownResource(resource.clone()))?;
    Ok(kind.draft(value)?)
}

/// The same for an object of any kind. Of a custom one the control plane changes metadata alone, so its selectable fields are
/// what they were.
pub fn changed(resource: &Resource, base: &Object, value: &Value) -> Result<Draft, ComposeError> {
    match api::kinds::find_by_resource(resource) {
        Some(kind) => Ok(kind.draft(value)?),
        None => Ok(Draft::encode(value, base.header.fields.to_vec())?),
    }
}

/// The write of a new object.
pub fn creation(
    resource: &Resource,
    namespace: &str,
    value: Value,
    now: UnixMillis,
    rng: &mut SmallRng,
) -> Result<Write, ComposeError> {
    let (key, draft) = create(resource, namespace, value, now, rng)?;
    let precondition = Precondition::Absent;
    Ok(Write::Put {
        key,
        precondition,
        draft,
    })
}

/// The write of a changed object, provided that it is still what the change was made from.
pub fn change(key: &Key, base: &Object, value: &Value) -> Result<Write, ComposeError> {
    Ok(Write::Put {
        key: key.clone(),
        precondition: Precondition::Revision(base.header.revision),
        draft: changed(&key.resource, base, value)?,
    })
}

/// The removal of an object, provided that it is still at this revision.
pub fn removal(key: &Key, revision: Revision) -> Write {
    Write::Delete {
        key: key.clone(),
        precondition: Precondition::Revision(revision),
    }
}

/// The same object again, for a fence.
pub fn unchanged(resource: &Resource, base: &Object) -> Result<Draft, ComposeError> {
    let value = base.value().map_err(|error| ComposeError::Invalid(error.to_string()))?;
    update(resource, &value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use serde_json::json;

    #[test]
    fn a_created_pod_is_complete() {
        let mut rng = SmallRng::seed_from_u64(1);
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        let (key, draft) = create(
            &Resource::new("pods"),
            "default",
            value,
            UnixMillis(1_000_000),
            &mut rng,
        )
        .unwrap();
        assert!(key.name.starts_with("web-") && key.name.len() == 9, "{key}");
        let stored = draft.preview().value().unwrap();
        assert_eq!(stored["metadata"]["namespace"], "default");
        assert_eq!(stored["metadata"]["uid"].as_str().unwrap().len(), 36);
        assert_eq!(stored["spec"]["restartPolicy"], "Always");
    }

    #[test]
    fn an_invalid_object_is_refused_with_its_reason() {
        let mut rng = SmallRng::seed_from_u64(1);
        let value = json!({"metadata": {"name": "x"}, "spec": {"containers": []}});
        let error = create(&Resource::new("pods"), "default", value, UnixMillis(0), &mut rng).unwrap_err();
        assert!(error.to_string().contains("spec.containers"), "{error}");
    }
}
