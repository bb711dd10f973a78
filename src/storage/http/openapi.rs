//! The storage server's description. What stands at the handlers is completed from the table of routes.

use actix_web::{HttpResponse, web};
use utoipa::OpenApi;

use super::access::Access;
use super::{admin, download, journal, metrics, openapi, scrub, upload};
use crate::types::api::ErrorBody;
use crate::types::storage_api::{InventoryLine, StorageStatus};
use crate::types::{DfsPath, Sha256};
use crate::web::describe::{ABOUT, bearer, complete, server, ticket};
use crate::web::route::Route;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast storage server",
        description = "Bytes of files, for whoever shows a ticket of the name server; and what name servers ask. "
    ),
    paths(
        upload::receive,
        download::send,
        admin::delete,
        admin::replicate,
        admin::dump_tree,
        journal::read,
        journal::receive,
        scrub::start,
        scrub::copies,
        scrub::read,
        admin::identity,
        admin::status,
        metrics::metrics,
        openapi::document,
    ),
    components(schemas(ErrorBody, DfsPath, Sha256, InventoryLine, StorageStatus))
)]
struct Description;

/// The description of what a table of routes offers.
pub fn description(routes: &[Route<Access>]) -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    description.info.description.get_or_insert_default().push_str(ABOUT);
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("ticket", ticket());
    components.add_security_scheme("server", server());
    components.add_security_scheme("scrape", bearer("The scrape token"));
    complete(&mut description, routes);
    description
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operation", responses((status = 200, body = Object)))]
pub(super) async fn document(description: web::Data<utoipa::openapi::OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::http::routes::ROUTES;
    use crate::web::describe::differences;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        assert_eq!(differences(&description(ROUTES), ROUTES), Vec::<String>::new());
    }
}
