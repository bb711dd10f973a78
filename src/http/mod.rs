//! The name server's endpoints.
//!
//! Handlers check who asks, hand changes to the actors or ask the database, and answer. They hold nothing that
//! the database does not.

pub mod auth;
pub mod files;
pub mod fsck;
pub mod gauges;
pub mod locations;
pub mod namespace;
pub mod openapi;
pub mod operation;
pub mod redirect;
pub mod restore;
pub mod server;
pub mod servers;
pub mod state;
pub mod tokens;

use actix_web::web;

/// All routes.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::scope("/api/v1")
                .service(files::available)
                .service(files::commit)
                .service(files::stat)
                .service(files::delete)
                .service(files::list)
                .service(namespace::mkdir)
                .service(namespace::rmdir)
                .service(namespace::touch)
                .service(namespace::mv)
                .service(namespace::cp)
                .service(namespace::setrep)
                .service(servers::register)
                .service(servers::pending_fates)
                .service(servers::corrupt_fates)
                .service(servers::list)
                .service(servers::drain)
                .service(servers::undrain)
                .service(servers::remove)
                .service(operation::report)
                .service(operation::actors_list)
                .service(operation::events_list)
                .service(operation::why)
                .service(fsck::check)
                .service(restore::start)
                .service(restore::status)
                .service(tokens::create)
                .service(tokens::list)
                .service(tokens::revoke)
                .service(tokens::revoke_by_query)
                .service(openapi::document),
        )
        .service(operation::status)
        .service(operation::metrics_text)
        .service(
            web::resource("/files/{path:.*}")
                .route(web::get().to(redirect::read))
                .route(web::head().to(redirect::read))
                .route(web::put().to(redirect::write))
                .route(web::delete().to(redirect::delete)),
        );
}
