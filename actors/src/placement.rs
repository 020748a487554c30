//! Where the actor of an object lives: the one place to change when control-plane actors are spread over the members.
//! Pure; the node process asks it which member runs the `ControlPlane` that has an object's actor.

use protocol::{Key, NodeName};

/// What placement looks at.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    /// The leader of the consensus group.
    pub leader: &'a NodeName,
    /// All live members, in the order of their names.
    pub alive: &'a [NodeName],
}

/// The member on which an object's control-plane actor lives: the leader, for every object. Its reads and writes are then
/// in process, and a fail-over moves all actors together.
pub fn placement(key: &Key, members: Members<'_>) -> NodeName {
    let _ = (key, members.alive);
    members.leader.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_actor_lives_on_the_leader() {
        let alive = [NodeName::from("a"), NodeName::from("b")];
        let members = Members {
            leader: &alive[1],
            alive: &alive,
        };
        assert_eq!(placement(&Key::new("services", "default", "web"), members), alive[1]);
    }
}
