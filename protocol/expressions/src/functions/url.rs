//! URLs: `url("https://example.com:80/path?query")`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::url::Url;

use super::opaque::{Opaque, URL};
use super::{Arguments, Function, Sort, global, member, refused, text, text_cost};
use crate::error::EvaluationError;
use crate::value::{Key, Map, Value};

const OF: Sort = Sort::Opaque(URL);

pub(super) static FUNCTIONS: &[Function] = &[
    global("url", &[Sort::Text], OF, |call| {
        let given = text(&call.values[0])?.to_owned();
        let parsed = parse(call)?;
        let url = parsed.ok_or_else(|| {
            refused(format!(
                "URL parse error during conversion from string: parse {given:?}: invalid URI for request"
            ))
        })?;
        Ok(Value::Opaque(Opaque::Url(Arc::new(url), given.into())))
    }),
    global("isURL", &[Sort::Text], Sort::Bool, |call| {
        Ok(Value::Bool(parse(call)?.is_some()))
    }),
    member("getScheme", &[OF], Sort::Text, |call| {
        let (url, given) = of(&call.values[0])?;
        Ok(Value::text(if given.starts_with('/') { "" } else { url.scheme() }))
    }),
    member("getHost", &[OF], Sort::Text, |call| {
        let (url, given) = of(&call.values[0])?;
        // The port as it was written: the crate leaves out a scheme's own.
        let port = written_port(given);
        let host = url.host_str().filter(|_| !given.starts_with('/')).unwrap_or_default();
        Ok(Value::text(if port.is_empty() {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        }))
    }),
    member("getHostname", &[OF], Sort::Text, |call| {
        let (url, given) = of(&call.values[0])?;
        let host = url.host_str().filter(|_| !given.starts_with('/')).unwrap_or_default();
        Ok(Value::text(host.trim_start_matches('[').trim_end_matches(']')))
    }),
    member("getPort", &[OF], Sort::Text, |call| {
        let (_, given) = of(&call.values[0])?;
        Ok(Value::text(written_port(given)))
    }),
    member("getEscapedPath", &[OF], Sort::Text, |call| {
        let (url, given) = of(&call.values[0])?;
        // Without a path the crate has a slash.
        let bare = url.path() == "/" && !written_path(given).starts_with('/');
        Ok(Value::text(if bare { "" } else { url.path() }))
    }),
    member("getQuery", &[OF], Sort::Map, |call| {
        let (url, _) = of(&call.values[0])?;
        let mut query: BTreeMap<Key, Vec<Value<'_>>> = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            let list = query.entry(Key::Text(name.as_ref().into())).or_default();
            list.push(Value::text(value.as_ref()));
        }
        let query = query.into_iter().map(|(name, values)| (name, Value::list(values)));
        Ok(Value::Map(Map::Made(Arc::new(query.collect()))))
    }),
];

fn parse(call: Arguments<'_, '_>) -> Result<Option<Url>, EvaluationError> {
    let given = text(&call.values[0])?;
    (call.spend)(text_cost(given.len()))?;
    // An absolute path is a URL to Go; here it gets a host that nobody sees.
    let parsed = match given.strip_prefix('/') {
        Some(_) => Url::parse("http://path.invalid").and_then(|base| base.join(given)),
        None => Url::parse(given),
    };
    Ok(parsed.ok())
}

/// What stands between the scheme and the path.
fn written_authority(given: &str) -> &str {
    let rest = given.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

fn written_path(given: &str) -> &str {
    let rest = given.split_once("://").map_or(given, |(_, rest)| rest);
    rest.find(['/', '?', '#']).map_or("", |at| &rest[at..])
}

fn written_port(given: &str) -> &str {
    let authority = written_authority(given);
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    after_host.rsplit_once(':').map_or("", |(_, port)| port)
}

fn of<'v>(value: &'v Value<'_>) -> Result<(&'v Url, &'v str), EvaluationError> {
    match value {
        Value::Opaque(Opaque::Url(url, given)) => Ok((url, given)),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}
