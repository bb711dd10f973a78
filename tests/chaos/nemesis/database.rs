//! The database goes away: Postgres is killed and started again; with SQLite, the process that has it open.

use rand::rngs::StdRng;

use super::Nemesis;
use crate::world::{Database, World};

pub struct KillDatabase;

impl Nemesis for KillDatabase {
    fn strike(&mut self, world: &World, _: &mut StdRng) -> Option<String> {
        match &world.database {
            Database::Postgres(postgres) => {
                postgres.kill();
                Some("Postgres is killed".into())
            }
            Database::Sqlite => world.names[0].kill().then(|| "the name server with its SQLite is killed".into()),
        }
    }

    fn heal(&mut self, world: &World) {
        match &world.database {
            Database::Postgres(postgres) => postgres.run(),
            Database::Sqlite => world.names[0].start(),
        }
    }
}
