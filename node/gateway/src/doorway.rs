//! What every request passes before it is served, in this order: who asks (`credentials`), the record of it (`audit`), as whom it
//! goes on, its turn (`fairness`). And what its answer passes on the way out. What it may is `rights`' business, once it is in.

use std::sync::Arc;
use std::time::Duration;

use access::{Attributes, User};
use api::kinds::Subresource;
use api::status::Status;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use protocol::{Uid, UnixMillis};

use crate::audit::{Audit, Notes, Record};
use crate::credentials::Credentials;
use crate::fairness::{Fairness, Seat};
use crate::request::{ApiRequest, ApiResponse, ResponseBody};
use crate::rights::attributes_of;
use crate::route::{Route, verb};

/// By which a request is found again in the audit log.
const AUDIT_ID_HEADER: &str = "audit-id";
/// The longest id that a client may choose, as Kubernetes bounds it.
const AUDIT_ID_MAX: usize = 64;

/// How long a list that is read keeps its seat because its client takes it slowly.
const SENDING_MAX: Duration = Duration::from_secs(1);

/// What stands before the API.
pub struct Doorway {
    /// Who asks.
    pub credentials: Credentials,
    /// The audit log, where the operator wants one.
    pub audit: Option<Arc<Audit>>,
    /// Whose turn it is.
    pub fairness: Arc<Fairness>,
    /// Random bits for audit ids.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
}

/// A request that is in. Its answer leaves through it.
pub struct Passage {
    record: Option<Record>,
    seat: Option<Seat>,
    audit_id: String,
}

impl Doorway {
    /// Lets a request in, or says what it is answered instead.
    pub async fn enter(
        &self,
        request: &mut ApiRequest,
        route: &Route,
        now: UnixMillis,
    ) -> Result<Passage, ApiResponse> {
        let mut passage = Passage {
            record: None,
            seat: None,
            audit_id: self.audit_id(request),
        };
        match self.pass(request, route, now, &mut passage).await {
            Ok(()) => Ok(passage),
            Err(status) => Err(passage.leave(ApiResponse::from(status))),
        }
    }

    async fn pass(
        &self,
        request: &mut ApiRequest,
        route: &Route,
        now: UnixMillis,
        passage: &mut Passage,
    ) -> Result<(), Status> {
        let verb = verb_of(request, route);
        let proven = self.credentials.proven(request, now).await;
        let real = proven.as_ref().ok().and_then(Option::as_ref);
        if let Some(audit) = &self.audit {
            request.notes = Notes::wanted();
            let nobody = User::default();
            let user = real.unwrap_or(&nobody);
            passage.record = audit.begin(request, route, verb, user, &passage.audit_id, now);
        }
        let proven = proven?;
        let user = match self.credentials.impersonated(request, proven.as_ref()).await? {
            Some(user) => {
                if let Some(record) = &mut passage.record {
                    record.impersonates(&user);
                }
                Some(user)
            }
            None => proven,
        };
        if let Some(user) = &user {
            let attributes = attributes_of(user, verb, request, route);
            let seats = self.seats(request, route, &attributes);
            let seat = self
                .fairness
                .seat(&attributes, seats, goes_on(route), &request.connection)
                .await?;
            passage.seat = Some(seat);
        }
        request.user = user;
        Ok(())
    }

    fn seats(&self, request: &ApiRequest, route: &Route, attributes: &Attributes<'_>) -> u32 {
        match route {
            Route::Resource(target) if matches!(attributes.verb, "list" | "watch") => {
                let limit = request.number("limit").ok().flatten();
                self.fairness.seats_of(&target.kind.resource(), limit)
            }
            _ => 1,
        }
    }

    /// The client's, where it chose one that can be a header.
    fn audit_id(&self, request: &ApiRequest) -> String {
        let chosen = request.audit_id.as_str();
        let is_good = (1..=AUDIT_ID_MAX).contains(&chosen.len()) && chosen.bytes().all(|byte| byte.is_ascii_graphic());
        if is_good {
            chosen.to_owned()
        } else {
            Uid::from_bits((self.random)()).to_string()
        }
    }
}

impl Passage {
    /// The answer is ready. Its seat is given back; of a stream only the start took one.
    pub fn leave(mut self, response: ApiResponse) -> ApiResponse {
        let seat = self.seat.take();
        let mut response = match self.record.take() {
            Some(record) => record.answered(response),
            None => response,
        };
        if let Some(seat) = seat {
            response.headers.extend(seat.headers.iter().cloned());
            keep_while_sent(&mut response.body, seat);
        }
        response.headers.push((AUDIT_ID_HEADER, self.audit_id));
        response
    }

    /// Whether the record wants the answer's body.
    pub fn wants_body(&self) -> bool {
        self.record.as_ref().is_some_and(Record::wants_body)
    }

    /// The headers of an answer that does not leave through here.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let seat = self.seat.iter().flat_map(|seat| seat.headers.iter().cloned());
        seat.chain([(AUDIT_ID_HEADER, self.audit_id.clone())]).collect()
    }

    /// The connection becomes a session: the record is kept as long as it goes on.
    pub fn session(mut self, code: u16) -> SessionRecord {
        let record = self.record.take();
        if let Some(record) = &record {
            record.started(code);
        }
        SessionRecord(record, code)
    }
}

/// A list that is read while it is sent keeps its seat until it is sent, for most of its work is that; but for a moment longer
/// than it is read at most, however slowly its client takes it.
fn keep_while_sent(body: &mut ResponseBody, seat: Seat) {
    /// Gives the seat back.
    struct Sent(Arc<Mutex<Option<Seat>>>);
    impl Drop for Sent {
        fn drop(&mut self) {
            self.0.lock().take();
        }
    }
    let ResponseBody::Parts { parts, read } = body else {
        return;
    };
    let seat = Arc::new(Mutex::new(Some(seat)));
    let (late, sent) = (Arc::downgrade(&seat), Sent(seat));
    let taken = std::mem::replace(parts, Box::pin(stream::empty()));
    *parts = Box::pin(taken.inspect(move |_| {
        let _kept = &sent;
    }));
    let read = std::mem::replace(read, Box::pin(std::future::ready(())));
    tokio::spawn(async move {
        read.await;
        tokio::time::sleep(SENDING_MAX).await;
        if let Some(seat) = late.upgrade() {
            seat.lock().take();
        }
    });
}

/// The audit record of a session or a proxied connection; dropped at its end.
#[derive(Default)]
pub struct SessionRecord(Option<Record>, u16);

impl Drop for SessionRecord {
    fn drop(&mut self) {
        if let Some(record) = &mut self.0 {
            record.complete(self.1, None);
        }
    }
}

/// The verb of a request, as authorization, audit and fairness know it.
pub fn verb_of(request: &ApiRequest, route: &Route) -> &'static str {
    match route {
        Route::Resource(target) => {
            let watches = request.flag("watch");
            // A method without a verb is refused by whoever serves.
            verb(&request.method, target, watches).unwrap_or_default()
        }
        _ => match request.method.as_str() {
            "GET" | "HEAD" => "get",
            "POST" => "post",
            "PUT" => "put",
            "PATCH" => "patch",
            "DELETE" => "delete",
            "OPTIONS" => "options",
            _ => "",
        },
    }
}

/// Whether nobody knows how long serving takes: what Kubernetes calls a long-running request, but for a watch, whose start is
/// as long as a list.
fn goes_on(route: &Route) -> bool {
    let Route::Resource(target) = route else { return false };
    matches!(
        target.subresource,
        Some(
            Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy
        )
    )
}
