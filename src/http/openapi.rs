//! The name server's description. What stands at the handlers is completed from the table of routes.

use actix_web::{HttpResponse, web};
use utoipa::OpenApi;

use super::auth::Access;
use super::{
    files, fsck, namespace, openapi, operation, rebalance, redirect, report, restore, scrub, servers, tokens, why,
};
use crate::types::api::{ErrorBody, NameServerDetails};
use crate::types::schema::PathBehindFiles;
use crate::types::{DfsPath, EventId, ObjectId};
use crate::web::describe::{ABOUT, bearer, complete, server};
use crate::web::route::Route;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast name server",
        description = "Bytes travel to and from storage servers, by tickets; `GET`, `HEAD`, `PUT` and `DELETE \
                       /files/{path}` redirect there (307), so that `curl -L` works. "
    ),
    paths(
        files::available,
        files::commit,
        files::stat,
        files::delete,
        files::list,
        namespace::mkdir,
        namespace::rmdir,
        namespace::touch,
        namespace::mv,
        namespace::cp,
        namespace::setrep,
        servers::register,
        servers::pending_fates,
        servers::corrupt_fates,
        servers::list,
        servers::drain,
        servers::undrain,
        servers::remove,
        report::report,
        operation::actors_list,
        operation::events_list,
        why::why,
        operation::status,
        operation::metrics_text,
        openapi::document,
        fsck::start,
        fsck::status,
        rebalance::start,
        rebalance::status,
        rebalance::stop,
        scrub::start,
        scrub::status,
        scrub::start_path,
        scrub::path_status,
        restore::start,
        restore::status,
        restore::abort,
        tokens::create,
        tokens::list,
        tokens::revoke,
        tokens::revoke_by_query,
        redirect::read,
        redirect::write,
        redirect::delete,
    ),
    components(schemas(ErrorBody, NameServerDetails, DfsPath, ObjectId, EventId, PathBehindFiles))
)]
struct Description;

/// The description of what a table of routes offers.
pub fn description(routes: &[Route<Access>]) -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    description.info.description.get_or_insert_default().push_str(ABOUT);
    let components = description.components.get_or_insert_default();
    let tokens = "A token of a person or program; `/metrics` takes the scrape token too";
    components.add_security_scheme("token", bearer(tokens));
    components.add_security_scheme("server", server());
    complete(&mut description, routes);
    description
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "operation", responses((status = 200, body = Object)))]
pub async fn document(description: web::Data<utoipa::openapi::OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::ROUTES;
    use crate::web::describe::differences;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        assert_eq!(differences(&description(ROUTES), ROUTES), Vec::<String>::new());
    }
}
