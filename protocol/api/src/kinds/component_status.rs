//! core/v1 ComponentStatus: its row and columns. Its objects are stored nowhere: whoever knows how the parts of the cluster
//! are answers the reads.

use super::{Kind, cells};
use crate::access::Access;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["cs"],
    namespaced: false,
    verbs: &["get", "list"],
    is_virtual: true,
    list_kind: "ComponentStatusList",
    columns: &[
        Column::NAME,
        Column::text("Status", "Status of the component conditions"),
        Column::text("Message", "Message of the component conditions"),
        Column::text("Error", "Error of the component conditions"),
    ],
    cells: |object, _| {
        let (mut status, mut message, mut error) = ("Unknown", "", "");
        for condition in object
            .items("conditions")
            .iter()
            .filter(|condition| condition.text("type") == "Healthy")
        {
            status = if condition.text("status") == "True" {
                "Healthy"
            } else {
                "Unhealthy"
            };
            (message, error) = (condition.text("message"), condition.text("error"));
        }
        vec![cells::name(object), status.into(), message.into(), error.into()]
    },
    ..row!("", v1, core, ComponentStatus, "componentstatuses", "componentstatus")
};
