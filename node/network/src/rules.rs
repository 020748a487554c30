//! The nft worker's state: the node's nftables table and the services in it.
//!
//! Decisions are in [`crate::service`]; this carries them out, recovers when somebody else has changed the table, and lets
//! changes that wait together be one transaction.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use nftables::{batch::Batch, schema::NfListObject};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    conntrack,
    error::NetworkError,
    listing,
    nft::Nft,
    ruleset::{self, BaseRules, TABLE},
    service::{Plan, Programmed, ServiceChange, ServiceRule, ServiceTable},
    worker::Chores,
};

/// How long an nft process takes to end after its transaction, and then some.
const REAPING: Duration = Duration::from_millis(50);

/// Something to be done with the services.
#[derive(Debug)]
pub(crate) enum Order {
    /// These change.
    Change(Vec<ServiceChange>),
    /// These are all there are.
    ReplaceAll(Vec<ServiceRule>),
}

/// Whom to tell the outcome of an order.
type Reply = oneshot::Sender<Result<(), NetworkError>>;

/// Orders that wait for the worker, each with whom to tell.
pub(crate) type OrderQueue = Arc<Mutex<VecDeque<(Order, Reply)>>>;

/// The state of the nft worker.
#[derive(Debug)]
pub(crate) struct Rules {
    nft: Nft,
    base: BaseRules,
    services: ServiceTable,
    orders: OrderQueue,
}

impl Chores for Rules {
    fn chore_due_in(&self) -> Option<Duration> {
        self.nft.has_leaving().then_some(REAPING)
    }

    fn run_chore(&mut self) {
        self.nft.reap();
    }
}

impl Rules {
    /// Makes the table, or brings an existing one up to date and reads which services it holds.
    pub(crate) fn open(base: BaseRules, orders: OrderQueue) -> Result<Self, NetworkError> {
        let mut nft = Nft::new();
        let programmed = list(&mut nft)?;
        set_up(&mut nft, &base)?;
        let services = ServiceTable::adopt(base.pod_cidr, programmed);
        Ok(Self {
            nft,
            base,
            services,
            orders,
        })
    }

    /// Carries out all orders that wait. Changes that follow each other become one transaction; only if it is refused each is
    /// tried by itself, so that one bad order does not fail the others.
    pub(crate) fn carry_out_orders(&mut self) {
        let mut waiting = std::mem::take(&mut *self.orders.lock());
        while let Some((order, reply)) = waiting.pop_front() {
            // Whoever does not wait for the outcome any more has dropped the receiver; the order is carried out all the same.
            let mut changes = match order {
                Order::ReplaceAll(rules) => {
                    let _ = reply.send(self.replace_all(&rules));
                    continue;
                }
                Order::Change(changes) => vec![(changes, reply)],
            };
            while let Some((Order::Change(_), _)) = waiting.front() {
                if let Some((Order::Change(more), reply)) = waiting.pop_front() {
                    changes.push((more, reply));
                }
            }
            self.change_together(changes);
        }
    }

    fn change_together(&mut self, mut orders: Vec<(Vec<ServiceChange>, Reply)>) {
        if orders.len() > 1 {
            let all: Vec<ServiceChange> = orders.iter().flat_map(|(changes, _)| changes.iter().cloned()).collect();
            if self.change(&all).is_ok() {
                for (_, reply) in orders.drain(..) {
                    let _ = reply.send(Ok(()));
                }
            }
        }
        for (changes, reply) in orders {
            let _ = reply.send(self.change(&changes));
        }
    }

    fn change(&mut self, changes: &[ServiceChange]) -> Result<(), NetworkError> {
        match self.carry_out(self.services.plan(changes)) {
            Err(error @ NetworkError::NftRefused { .. }) => self.recover(error, |services| services.plan(changes)),
            outcome => outcome,
        }
    }

    fn replace_all(&mut self, rules: &[ServiceRule]) -> Result<(), NetworkError> {
        match self.carry_out(self.services.plan_all(rules)) {
            Err(error @ NetworkError::NftRefused { .. }) => self.recover(error, |services| services.plan_all(rules)),
            outcome => outcome,
        }
    }

    /// Compares the kernel's table with what it should hold, and corrects it. Returns whether anything was wrong.
    pub(crate) fn repair(&mut self) -> Result<bool, NetworkError> {
        let found = list(&mut self.nft)?;
        let differs = found != *self.services.programmed();
        // The fixed rules are filled in anew in any case: that costs less than comparing them.
        set_up(&mut self.nft, &self.base)?;
        if differs {
            self.services.replace_programmed(found);
            self.carry_out(self.services.plan_repair())?;
        }
        Ok(differs)
    }

    /// Other tables' chains that drop forwarded packets unless a rule of theirs lets them pass.
    pub(crate) fn foreign_drops(&mut self) -> Result<Vec<String>, NetworkError> {
        let chains = self.nft.list(&["chains"], "list the chains of all tables")?;
        Ok(listing::foreign_drops(&chains))
    }

    /// The names of the services that are known.
    pub(crate) fn names(&self) -> Vec<String> {
        self.services.names().map(str::to_owned).collect()
    }

    /// Deletes the table; it is no error if there is none.
    pub(crate) fn delete_table(&mut self) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        // Adding first makes the deletion succeed in any case.
        batch.add(NfListObject::Table(ruleset::table()));
        batch.delete(NfListObject::Table(ruleset::table()));
        self.nft.apply(batch, "delete the table inet actorium")
    }

    /// Applies a plan; the table's memory follows only if nft accepted it.
    fn carry_out(&mut self, plan: Plan) -> Result<(), NetworkError> {
        if !plan.is_empty() {
            self.nft.apply(plan.batch(), "change the services")?;
        }
        let stale = plan.stale_flows(&self.services);
        self.services.commit(plan);
        if !stale.is_empty()
            && let Err(error) = conntrack::forget(&stale)
        {
            tracing::warn!(%error, "cannot forget the flows to removed UDP endpoints; their clients may wait for minutes");
        }
        Ok(())
    }

    /// A refused change means that the kernel does not hold what we remember: somebody has flushed the ruleset, as firewalls
    /// do when they are reloaded. So the table is read and corrected, and the change tried once more.
    fn recover(&mut self, refusal: NetworkError, plan: impl Fn(&ServiceTable) -> Plan) -> Result<(), NetworkError> {
        if !self.repair()? {
            return Err(refusal);
        }
        tracing::warn!(%refusal, "the nftables table had been changed by somebody else; it is as it should be again");
        self.carry_out(plan(&self.services))
    }
}

fn set_up(nft: &mut Nft, base: &BaseRules) -> Result<(), NetworkError> {
    nft.apply(ruleset::base(base), "set up the table inet actorium")
}

/// What the kernel's table holds; nothing if there is no table.
fn list(nft: &mut Nft) -> Result<Programmed, NetworkError> {
    let action = "list the table inet actorium";
    let tables = nft.list(&["tables"], action)?;
    if !listing::has_table(&tables) {
        return Ok(Programmed::default());
    }
    let listing = nft.list(&["table", "inet", TABLE], action)?;
    Ok(listing::read_listing(&listing))
}
