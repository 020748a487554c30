//! The supervisor and the registry with real ractor actors: who is restarted, who is not disturbed, what the shell sees.

use std::sync::Arc;
use std::time::Duration;

use protocol::admin::{AdminError, AdminReply, AdminRequest};
use ractor::{Actor, ActorProcessingErr, ActorRef, call_t};
use supervision::{
    ActorPath, ActorView, AdminMessage, ChildSpec, Registry, RestartPolicy, RestartRule, Supervisor,
    SupervisorArguments, SupervisorMessage, SystemClock,
};

/// Counts what it is told; panics when told so.
struct Counter;

struct CounterMessage(AdminMessage);
impl ractor::Message for CounterMessage {}
impl From<AdminMessage> for CounterMessage {
    fn from(message: AdminMessage) -> Self {
        CounterMessage(message)
    }
}

impl Actor for Counter {
    type Msg = CounterMessage;
    type State = (u64, ActorView);
    type Arguments = ActorView;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, view: ActorView) -> Result<Self::State, ActorProcessingErr> {
        view.summarize("counting");
        Ok((0, view))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        CounterMessage(message): Self::Msg,
        (count, view): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        view.count_message();
        match message {
            AdminMessage::Ask { question, reply } if question == "state" => {
                let _ = reply.send(Ok(count.to_string()));
            }
            AdminMessage::Ask { reply, .. } => {
                let _ = reply.send(Err("ask: state; tell: add, panic, stop".to_owned()));
            }
            AdminMessage::Tell { message, reply } => {
                match message.as_str() {
                    "panic" => panic!("told to"),
                    "stop" => myself.stop(None),
                    _ => *count += 1,
                }
                let _ = reply.send(Ok("done".to_owned()));
            }
        }
        Ok(())
    }
}

fn path(text: &str) -> ActorPath {
    ActorPath::parse(text).unwrap()
}

fn spec(text: &str, rule: RestartRule) -> ChildSpec {
    let policy = RestartPolicy {
        restarts_max: 2,
        back_off_first_ms: 60_000,
        ..RestartPolicy::actor(rule)
    };
    ChildSpec::actor(path(text), "counter", policy, |context| (Counter, context.view.clone()))
}

async fn supervisor(children: Vec<ChildSpec>) -> (Registry, ActorRef<SupervisorMessage>) {
    let registry = Registry::default();
    let arguments = SupervisorArguments {
        registry: registry.clone(),
        clock: Arc::new(SystemClock),
        children: children.clone(),
    };
    let (supervisor, _) = Actor::spawn(None, Supervisor, arguments).await.unwrap();
    for child in children {
        until(&registry, |registry| registry.find(&child.path).is_some()).await;
    }
    (registry, supervisor)
}

/// Waits until the condition holds; fails the test after ten seconds.
async fn until(registry: &Registry, condition: impl Fn(&Registry) -> bool) {
    for _ in 0..5_000 {
        if condition(registry) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the condition did not come to hold; registry: {:?}", registry.entries());
}

async fn ask(registry: &Registry, path: &str) -> Result<AdminReply, AdminError> {
    registry
        .serve(AdminRequest::Ask {
            path: path.into(),
            question: "state".into(),
        })
        .await
}

async fn tell(registry: &Registry, path: &str, message: &str) -> Result<AdminReply, AdminError> {
    registry
        .serve(AdminRequest::Tell {
            path: path.into(),
            message: message.into(),
        })
        .await
}

fn restarts(registry: &Registry, text: &str) -> u64 {
    registry.find(&path(text)).map_or(0, |entry| entry.restarts)
}

#[tokio::test]
async fn a_killed_actor_is_restarted_and_its_siblings_do_not_notice() {
    let (registry, supervisor) = supervisor(vec![
        spec("/a/one", RestartRule::Permanent),
        spec("/a/two", RestartRule::Permanent),
    ])
    .await;
    until(&registry, |registry| {
        registry.entries().iter().all(|entry| entry.summary == "counting")
    })
    .await;
    tell(&registry, "/a/one", "add").await.unwrap();
    tell(&registry, "/a/two", "add").await.unwrap();
    registry
        .serve(AdminRequest::Kill { path: "/a/one".into() })
        .await
        .unwrap();
    until(&registry, |registry| restarts(registry, "/a/one") == 1).await;
    assert_eq!(wait_for_answer(&registry, "/a/one").await, AdminReply::Json("0".into()));
    assert_eq!(ask(&registry, "/a/two").await.unwrap(), AdminReply::Json("1".into()));
    assert_eq!(restarts(&registry, "/a/two"), 0);
    supervisor.stop(None);
}

async fn wait_for_answer(registry: &Registry, path: &str) -> AdminReply {
    for _ in 0..5_000 {
        if let Ok(reply) = ask(registry, path).await {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{path} does not answer");
}

#[tokio::test]
async fn an_actor_that_panics_again_and_again_backs_off_and_others_go_on() {
    let (registry, supervisor) = supervisor(vec![
        spec("/bad", RestartRule::Permanent),
        spec("/good", RestartRule::Permanent),
    ])
    .await;
    for expected in 1..=3 {
        wait_for_answer(&registry, "/bad").await;
        assert!(matches!(
            tell(&registry, "/bad", "panic").await,
            Err(AdminError::NoAnswer { .. })
        ));
        until(&registry, |registry| restarts(registry, "/bad") == expected).await;
    }
    assert_eq!(registry.find(&path("/bad")).unwrap().state, "backing-off");
    assert!(matches!(ask(&registry, "/bad").await, Err(AdminError::NoAnswer { .. })));
    assert_eq!(ask(&registry, "/good").await.unwrap(), AdminReply::Json("0".into()));
    supervisor.stop(None);
}

#[tokio::test]
async fn a_transient_actor_that_finished_is_gone_and_a_temporary_one_is_never_restarted() {
    let (registry, supervisor) = supervisor(vec![
        spec("/t", RestartRule::Transient),
        spec("/once", RestartRule::Temporary),
    ])
    .await;
    wait_for_answer(&registry, "/t").await;
    wait_for_answer(&registry, "/once").await;
    tell(&registry, "/t", "stop").await.unwrap();
    registry
        .serve(AdminRequest::Kill { path: "/once".into() })
        .await
        .unwrap();
    until(&registry, |registry| registry.entries().is_empty()).await;
    supervisor.stop(None);
}

#[tokio::test]
async fn a_child_that_is_started_while_its_former_life_stops_comes_after_it() {
    let (registry, supervisor) = supervisor(vec![spec("/a", RestartRule::Permanent)]).await;
    wait_for_answer(&registry, "/a").await;
    tell(&registry, "/a", "add").await.unwrap();
    supervisor
        .send_message(SupervisorMessage::Stop {
            path: path("/a"),
            reply: None,
        })
        .unwrap();
    let outcome = call_t!(
        supervisor,
        |reply| SupervisorMessage::Start {
            spec: spec("/a", RestartRule::Permanent),
            reply: Some(reply)
        },
        5_000
    );
    assert!(outcome.unwrap().is_err());
    for _ in 0..5_000 {
        if wait_for_answer(&registry, "/a").await == AdminReply::Json("0".into()) {
            supervisor.stop(None);
            return;
        }
    }
    panic!("the new child did not start");
}

#[tokio::test]
async fn the_shell_sees_the_tree_and_errors_name_what_there_is() {
    let children = [
        "/c/default/pods/a",
        "/c/default/pods/a-b",
        "/c/kube-system/pods/x",
        "/c",
    ];
    let (registry, supervisor) =
        supervisor(children.iter().map(|text| spec(text, RestartRule::Permanent)).collect()).await;
    let paths = |reply: AdminReply| match reply {
        AdminReply::Actors(entries) => entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let ls = registry.serve(AdminRequest::Ls { path: "/c".into() }).await.unwrap();
    assert_eq!(paths(ls), ["/c/default", "/c/kube-system"]);
    let tree = registry
        .serve(AdminRequest::Tree {
            path: "/c/default".into(),
            depth: 0,
        })
        .await
        .unwrap();
    assert_eq!(
        paths(tree),
        ["/c/default/pods", "/c/default/pods/a", "/c/default/pods/a-b"]
    );
    let tree = registry
        .serve(AdminRequest::Tree {
            path: "/".into(),
            depth: 2,
        })
        .await
        .unwrap();
    assert_eq!(paths(tree), ["/c", "/c/default", "/c/kube-system"]);
    let error = registry
        .serve(AdminRequest::Stats {
            path: "/c/default/pods/zz".into(),
        })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/c/default/pods/a-b"), "{error}");
    let error = registry
        .serve(AdminRequest::Ask {
            path: "/c/default/pods/a".into(),
            question: "weather".into(),
        })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tell: add, panic, stop"), "{error}");
    supervisor.stop(None);
}
