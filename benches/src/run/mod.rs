//! Owns the running of one case: the meter, the objects, the world of each depth, and the check of what came of it. Called by
//! the program's child process and by tests. It must fail loudly when a case does not end as it should.

pub mod core;
#[cfg(feature = "store")]
pub mod live;
pub mod meter;
pub mod objects;
pub mod oracle;
pub mod outcome;

use crate::expression::ExpressionError;
use crate::template::TemplateError;

/// How a case is run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct RunOptions {
    /// Decides between equally good nodes.
    pub seed: u64,
    /// At depth `core` the scheduler's threads, and with more than one another that makes objects ahead of it; the runtime's at
    /// the other depths.
    pub threads: usize,
    /// Pods that arrive between two rounds, and the most that one round decides for. The scheduler's actor has 512.
    pub round: usize,
    /// Voters of the consensus group (`store`).
    pub voters: u64,
    /// Connections that create pods (`api`) or proposals under way (`store`).
    pub clients: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            threads: 1,
            round: 512,
            voters: 1,
            clients: 16,
        }
    }
}

/// Why a case failed.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A count.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// The step waits for something that does not come.
    #[error("step {step}: {waiting} of its pods are not {wanted} and nothing more is going to happen; {why}")]
    Stuck {
        /// The step.
        step: usize,
        /// How many pods are waited for.
        waiting: usize,
        /// What for.
        wanted: &'static str,
        /// The last refusal, and the queue.
        why: String,
    },
    /// Something else came of a step than it expects.
    #[error("step {step}: {found}, expected {expected}")]
    Outcome {
        /// The step.
        step: usize,
        /// What came of it.
        found: String,
        /// What should have.
        expected: String,
    },
    /// A decision breaks a rule.
    #[error("decision {number} puts {pod} on {node}: {rule}")]
    Rule {
        /// The number of the event in the log.
        number: usize,
        /// The pod.
        pod: String,
        /// The node.
        node: String,
        /// Which rule, with the amounts.
        rule: String,
    },
    /// The run broke a limit of the case.
    #[error("{what} is {found}, the case allows {limit}")]
    Bound {
        /// What was limited.
        what: &'static str,
        /// What it was.
        found: String,
        /// The limit.
        limit: String,
    },
    /// The depth cannot run the case.
    #[error("depth {depth} cannot run this case: {why}")]
    Depth {
        /// The depth.
        depth: &'static str,
        /// Why.
        why: String,
    },
    /// Something of the machine, the store or the node process failed.
    #[error("{what}: {why}")]
    Failed {
        /// What was done.
        what: &'static str,
        /// What came back.
        why: String,
    },
}

/// Runs a case at a depth. `progress` is told how many measured pods are bound, of how many.
pub fn run<'a>(
    case: &'a crate::catalog::Selected,
    depth: &str,
    options: &'a RunOptions,
    progress: &'a mut core::Progress<'a>,
) -> Result<outcome::CaseResult, CaseError> {
    match depth {
        "core" => core::run(case, options, progress),
        #[cfg(feature = "store")]
        "store" => live::store::run(case, options, progress),
        #[cfg(feature = "store")]
        "api" => live::api::run(case, options, progress),
        other => Err(CaseError::Depth {
            depth: if other == "store" { "store" } else { "api" },
            why: "the program was built without the feature `store`".to_owned(),
        }),
    }
}
