//! core/v1 ServiceAccount: its row and columns.

use super::{Kind, Subresource, cells};
use crate::access::Access;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    columns: &[
        Column::NAME,
        Column::text("Secrets", "Number of secrets that pods of this account may mount."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            object.items("secrets").len().to_string().into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!("", v1, core, ServiceAccount, "serviceaccounts", "serviceaccount")
};
