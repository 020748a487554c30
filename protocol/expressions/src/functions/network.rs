//! Addresses and networks: `ip("10.0.0.1")`, `cidr("10.0.0.0/8")`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::opaque::{CIDR, IP, Opaque};
use super::{Arguments, Function, Sort, global, member, refused, text, text_cost};
use crate::error::EvaluationError;
use crate::value::Value;

const ADDRESS: Sort = Sort::Opaque(IP);
const NET: Sort = Sort::Opaque(CIDR);

pub(super) static FUNCTIONS: &[Function] = &[
    global("ip", &[Sort::Text], ADDRESS, |call| {
        let given = given(call)?;
        let address = parse_ip(&given).ok_or_else(|| {
            refused(format!(
                "IP Address {given:?} parse error during conversion from string"
            ))
        })?;
        Ok(Value::Opaque(Opaque::Ip(address)))
    }),
    global("isIP", &[Sort::Text], Sort::Bool, |call| {
        Ok(Value::Bool(parse_ip(&given(call)?).is_some()))
    }),
    global("ip.isCanonical", &[Sort::Text], Sort::Bool, |call| {
        let given = given(call)?;
        let address = parse_ip(&given).ok_or_else(|| {
            refused(format!(
                "IP Address {given:?} parse error during conversion from string"
            ))
        })?;
        Ok(Value::Bool(address.to_string() == given))
    }),
    member("family", &[ADDRESS], Sort::Int, |call| {
        Ok(Value::Int(if ip(&call.values[0])?.is_ipv4() { 4 } else { 6 }))
    }),
    member("isUnspecified", &[ADDRESS], Sort::Bool, |call| {
        Ok(Value::Bool(ip(&call.values[0])?.is_unspecified()))
    }),
    member("isLoopback", &[ADDRESS], Sort::Bool, |call| {
        Ok(Value::Bool(ip(&call.values[0])?.is_loopback()))
    }),
    member("isLinkLocalMulticast", &[ADDRESS], Sort::Bool, |call| {
        Ok(Value::Bool(match ip(&call.values[0])? {
            IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
            IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
        }))
    }),
    member("isLinkLocalUnicast", &[ADDRESS], Sort::Bool, |call| {
        Ok(Value::Bool(match ip(&call.values[0])? {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
        }))
    }),
    member("isGlobalUnicast", &[ADDRESS], Sort::Bool, |call| {
        let address = ip(&call.values[0])?;
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
        };
        let special = address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local;
        Ok(Value::Bool(!special))
    }),
    global("cidr", &[Sort::Text], NET, |call| {
        let given = given(call)?;
        let net: Result<IpNet, _> = given.parse();
        let net = net.map_err(|_| {
            refused(format!(
                "network address parse error during conversion from string: netip.ParsePrefix({given:?})"
            ))
        })?;
        Ok(Value::Opaque(Opaque::Cidr(net)))
    }),
    global("isCIDR", &[Sort::Text], Sort::Bool, |call| {
        Ok(Value::Bool(given(call)?.parse::<IpNet>().is_ok()))
    }),
    member("containsIP", &[NET, Sort::Text], Sort::Bool, |call| {
        let given = text(&call.values[1])?;
        let address = parse_ip(given).ok_or_else(|| {
            refused(format!(
                "IP Address {given:?} parse error during conversion from string"
            ))
        })?;
        Ok(Value::Bool(cidr(&call.values[0])?.contains(&address)))
    }),
    member("containsIP", &[NET, ADDRESS], Sort::Bool, |call| {
        Ok(Value::Bool(cidr(&call.values[0])?.contains(&ip(&call.values[1])?)))
    }),
    member("containsCIDR", &[NET, Sort::Text], Sort::Bool, |call| {
        let given = text(&call.values[1])?;
        let net: Result<IpNet, _> = given.parse();
        let net = net.map_err(|_| {
            refused(format!(
                "network address parse error during conversion from string: netip.ParsePrefix({given:?})"
            ))
        })?;
        Ok(Value::Bool(cidr(&call.values[0])?.contains(&net)))
    }),
    member("containsCIDR", &[NET, NET], Sort::Bool, |call| {
        Ok(Value::Bool(cidr(&call.values[0])?.contains(&cidr(&call.values[1])?)))
    }),
    member("ip", &[NET], ADDRESS, |call| {
        Ok(Value::Opaque(Opaque::Ip(cidr(&call.values[0])?.addr())))
    }),
    member("masked", &[NET], NET, |call| {
        Ok(Value::Opaque(Opaque::Cidr(cidr(&call.values[0])?.trunc())))
    }),
    member("prefixLength", &[NET], Sort::Int, |call| {
        Ok(Value::Int(i64::from(cidr(&call.values[0])?.prefix_len())))
    }),
];

fn given(call: Arguments<'_, '_>) -> Result<String, EvaluationError> {
    let given = text(&call.values[0])?;
    (call.spend)(text_cost(given.len()))?;
    Ok(given.to_owned())
}

/// An address; one that maps IPv4 into IPv6 is refused, as Kubernetes refuses it.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

fn ip(value: &Value<'_>) -> Result<IpAddr, EvaluationError> {
    match value {
        Value::Opaque(Opaque::Ip(address)) => Ok(*address),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn cidr(value: &Value<'_>) -> Result<IpNet, EvaluationError> {
    match value {
        Value::Opaque(Opaque::Cidr(net)) => Ok(*net),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}
