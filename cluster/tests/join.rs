//! Joining over real sockets: a machine with a good token becomes a member; every other attempt ends with a message that
//! says why, and nothing is left behind.
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cluster::Mesh;
use cluster::identity::{AuthorityMaterial, ClusterAuthority, PkiDirectory};
use cluster::join::{
    Applicant, JoinAuthority, JoinError, JoinGrant, JoinRefusal, JoinRequest, JoinService, TokenRecord, check_name,
    check_token, join, new_token, renew,
};
use cluster::membership::{Member, MemberFacts, MemberStatus};
use config::JoinToken;
use config::node::{ClusterSettings, JoinAddress, JoinTarget};
use parking_lot::Mutex;
use protocol::transport::{Purpose, Transport};
use protocol::{NodeName, UnixMillis};
use support::{Echo, TestAuthority, loopback, name, now};

/// As the process does it on the replicated store, but in memory.
struct Registrar {
    material: AuthorityMaterial,
    members: Vec<Member>,
    tokens: Mutex<Vec<TokenRecord>>,
    /// How many requests find no leader.
    not_ready: Mutex<u32>,
    asked: Mutex<u32>,
}

impl Registrar {
    fn issue(&self, request: &[u8], node: &NodeName, addresses: &[IpAddr]) -> Result<String, JoinRefusal> {
        let authority = ClusterAuthority::load(&self.material).unwrap();
        authority
            .issue_node(request, node, addresses, &ClusterSettings::default().api_names(), now())
            .map_err(|error| JoinRefusal::SigningRequest {
                reason: error.to_string(),
            })
    }
}

#[async_trait]
impl JoinAuthority for Registrar {
    async fn admit(&self, request: JoinRequest) -> Result<JoinGrant, JoinRefusal> {
        *self.asked.lock() += 1;
        let left = self.not_ready.lock().checked_sub(1);
        if let Some(left) = left {
            *self.not_ready.lock() = left;
            return Err(JoinRefusal::NotReady {
                reason: "there is no leader".to_owned(),
            });
        }
        let record = self
            .tokens
            .lock()
            .iter()
            .find(|record| record.id == request.token_id)
            .cloned();
        check_token(record.as_ref(), &request, now())?;
        check_name(&request, &self.members)?;
        Ok(JoinGrant {
            certificate_pem: self.issue(&request.signing_request, &request.name, &request.addresses)?,
            authority_pem: self.material.certificate_pem.clone(),
            members: self
                .members
                .iter()
                .map(|member| (member.name.clone(), member.address))
                .collect(),
            settings: ClusterSettings {
                cluster_domain: "test.local".to_owned(),
                ..ClusterSettings::default()
            },
            raft_id: 7,
        })
    }

    async fn renew(&self, node: &NodeName, request: Vec<u8>, addresses: Vec<IpAddr>) -> Result<String, JoinRefusal> {
        self.issue(&request, node, &addresses)
    }
}

struct Cluster {
    authority: TestAuthority,
    mesh: Mesh,
    registrar: Arc<Registrar>,
    token: JoinToken,
}

impl Cluster {
    fn start() -> Cluster {
        let authority = TestAuthority::new();
        let mesh = authority.mesh("n1");
        let token = new_token(authority.authority.fingerprint());
        let member = Member {
            name: name("n1"),
            address: mesh.local_address(),
            incarnation: 1,
            facts: MemberFacts::default(),
            status: MemberStatus::Alive,
            since: now(),
        };
        let registrar = Arc::new(Registrar {
            material: authority.material.clone(),
            members: vec![member],
            tokens: Mutex::new(vec![TokenRecord::new(&token, Some(now().plus_ms(60_000)), "test")]),
            not_ready: Mutex::new(0),
            asked: Mutex::new(0),
        });
        mesh.serve(Purpose::Join, JoinService::new(registrar.clone()));
        mesh.serve(Purpose::Api, Arc::new(Echo));
        Cluster {
            authority,
            mesh,
            registrar,
            token,
        }
    }

    fn target(&self, token: &JoinToken) -> JoinTarget {
        target(self.mesh.local_address(), token)
    }

    async fn refused(&self, token: &JoinToken, node: &str) -> JoinError {
        let error = join(&self.target(token), &applicant(node), Duration::from_secs(5))
            .await
            .unwrap_err();
        println!("{error}");
        error
    }
}

fn target(address: SocketAddr, token: &JoinToken) -> JoinTarget {
    let address = JoinAddress {
        host: address.ip().to_string(),
        port: address.port(),
    };
    JoinTarget {
        addresses: vec![address],
        token: token.clone(),
    }
}

fn applicant(node: &str) -> Applicant {
    Applicant {
        name: name(node),
        mesh_address: "127.0.0.1:7999".parse().unwrap(),
        addresses: vec!["127.0.0.9".parse().unwrap()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_with_a_good_token_becomes_a_member() {
    let cluster = Cluster::start();
    let began = Instant::now();
    let joined = join(
        &cluster.target(&cluster.token),
        &applicant("n2"),
        Duration::from_secs(5),
    )
    .await
    .unwrap();
    println!("joined after {:?}", began.elapsed());
    assert_eq!((joined.identity.name.as_str(), joined.raft_id), ("n2", 7));
    assert_eq!(joined.settings.cluster_domain, "test.local");
    assert_eq!(joined.members, [(name("n1"), cluster.mesh.local_address())]);
    assert!(joined.identity.facts.addresses.contains(&"127.0.0.9".parse().unwrap()));
    assert!(joined.identity.facts.addresses.contains(&"10.96.0.1".parse().unwrap()));
    // Its identity survives the disk, and opens the mesh.
    let directory = tempfile::tempdir().unwrap();
    let pki = PkiDirectory::new(directory.path());
    pki.store(&joined.identity).unwrap();
    let identity = pki.load().unwrap().unwrap();
    let mesh = Mesh::start(&identity, loopback()).unwrap();
    mesh.set_address(&name("n1"), cluster.mesh.local_address());
    let answer = mesh
        .call(
            &name("n1"),
            Purpose::Api,
            Bytes::from_static(b"hi"),
            Duration::from_secs(1),
        )
        .await
        .unwrap();
    assert_eq!(&answer[..], b"n2:hi");
    // And is renewed for the same key, over the member's own connection.
    let renewed = renew(&mesh, &name("n1"), &identity, vec!["127.0.0.8".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!((&renewed.name, &renewed.key_pem), (&identity.name, &identity.key_pem));
    assert!(renewed.facts.addresses.contains(&"127.0.0.8".parse().unwrap()));
    mesh.renew(&renewed).unwrap();
    mesh.disconnect(&name("n1"), "to use the new certificate");
    mesh.call(&name("n1"), Purpose::Api, Bytes::new(), Duration::from_secs(1))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_wrong_expired_or_unknown_is_refused_with_the_remedy() {
    let cluster = Cluster::start();
    let mut wrong = cluster.token.clone();
    wrong.secret = new_token(wrong.ca_fingerprint).secret;
    let error = cluster.refused(&wrong, "n2").await;
    assert!(matches!(
        &error,
        JoinError::Refused {
            refusal: JoinRefusal::WrongSecret { .. },
            ..
        }
    ));
    assert!(error.to_string().contains("actorium token create"));

    let unknown = new_token(cluster.token.ca_fingerprint);
    let error = cluster.refused(&unknown, "n2").await;
    assert!(
        matches!(&error, JoinError::Refused { refusal: JoinRefusal::UnknownToken { id }, .. } if *id == unknown.id)
    );

    cluster.registrar.tokens.lock()[0].expires_at = Some(UnixMillis(now().0 - 1));
    let error = cluster.refused(&cluster.token, "n2").await;
    assert!(matches!(
        &error,
        JoinError::Refused {
            refusal: JoinRefusal::Expired { .. },
            ..
        }
    ));
    assert!(error.to_string().contains("expired at"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_or_invalid_is_refused() {
    let cluster = Cluster::start();
    let error = cluster.refused(&cluster.token, "n1").await;
    assert!(matches!(
        &error,
        JoinError::Refused {
            refusal: JoinRefusal::NameTaken { .. },
            ..
        }
    ));
    let error = cluster.refused(&cluster.token, "kubernetes").await;
    assert!(matches!(
        &error,
        JoinError::Refused {
            refusal: JoinRefusal::Name { .. },
            ..
        }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_the_token_is_not_for_is_recognised_before_anything_is_said() {
    let cluster = Cluster::start();
    let other = TestAuthority::new();
    let token = new_token(other.authority.fingerprint());
    let error = cluster.refused(&token, "n2").await;
    let JoinError::WrongAuthority { expected, found, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*expected, hex::encode(other.authority.fingerprint()));
    assert!(found.contains(&hex::encode(cluster.authority.authority.fingerprint())));
    assert_eq!(*cluster.registrar.asked.lock(), 0, "the secret was sent to a stranger");

    // Someone who shows the right CA beside a certificate that it did not issue is no better.
    let forged = other.identity("n1");
    let forged = cluster::identity::NodeIdentity {
        authority_pem: cluster.authority.authority.certificate_pem().to_owned(),
        ..forged
    };
    let liar = Mesh::start(&forged, loopback()).unwrap();
    liar.serve(Purpose::Join, JoinService::new(cluster.registrar.clone()));
    let aim = target(liar.local_address(), &cluster.token);
    let error = join(&aim, &applicant("n2"), Duration::from_millis(100))
        .await
        .unwrap_err();
    println!("{error}");
    assert!(matches!(&error, JoinError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(*cluster.registrar.asked.lock(), 0, "the secret was sent to a liar");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_do_not_answer_are_all_named() {
    let cluster = Cluster::start();
    // A socket that never answers, and a name that does not resolve.
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let mut aim = target(silent.local_addr().unwrap(), &cluster.token);
    aim.addresses.push(JoinAddress {
        host: "name.invalid".to_owned(),
        port: 1,
    });
    let began = Instant::now();
    let error = join(&aim, &applicant("n2"), Duration::from_secs(1)).await.unwrap_err();
    let text = error.to_string();
    println!("{text}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(
        text.contains(&silent.local_addr().unwrap().to_string()) && text.contains("name.invalid"),
        "{text}"
    );
    assert!(text.contains("firewall"), "{text}");
    // One good address among them is enough.
    let good = cluster.mesh.local_address();
    aim.addresses.push(JoinAddress {
        host: good.ip().to_string(),
        port: good.port(),
    });
    join(&aim, &applicant("n2"), Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_leader_is_asked_again() {
    let cluster = Cluster::start();
    *cluster.registrar.not_ready.lock() = 2;
    join(
        &cluster.target(&cluster.token),
        &applicant("n2"),
        Duration::from_secs(5),
    )
    .await
    .unwrap();
    assert_eq!(*cluster.registrar.asked.lock(), 3);
    *cluster.registrar.not_ready.lock() = 1000;
    let aim = cluster.target(&cluster.token);
    let error = join(&aim, &applicant("n3"), Duration::from_millis(700))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("there is no leader"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_nothing_but_joining_is_served() {
    let cluster = Cluster::start();
    // A joiner's connection, used for something else: the pinned client is what a joiner has.
    for purpose in [Purpose::Api, Purpose::Store, Purpose::Consensus, Purpose::Remoting] {
        let answered = support::ask_without_certificate(cluster.mesh.local_address(), purpose).await;
        assert_eq!(answered, vec![1], "{purpose:?} was served");
    }
    assert_eq!(cluster.mesh.counters().served, 0);
    // And as a member it is not let in at all.
    assert!(support::member_without_certificate(cluster.mesh.local_address()).await);
}
