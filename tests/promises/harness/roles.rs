//! The documented roles, under names of the test's own.

use overdue::database;
use overdue::finding::Outcome;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;

use super::world::World;

const ROLES: [&str; 4] = ["overdue_owner", "overdue_pod", "overdue_shop", "overdue_reader"];

/// A world whose tables belong to the documented owner; roles are the server's, so each test has its own.
pub struct Roles<'a> {
    pub world: &'a World,
}

impl Roles<'_> {
    pub async fn with(test: impl AsyncFnOnce(&Roles)) {
        World::with(async |world| {
            let roles = Roles { world };
            // As it is in a new database of PostgreSQL 14.
            world.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE, CREATE ON SCHEMA public TO PUBLIC").await;
            world.sql(&roles.named(include_str!("../../../postgres/roles.sql"))).await;
            for role in ROLES {
                let (group, user) = (roles.named(role), roles.user(role));
                world.sql(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret' IN ROLE {group}")).await;
            }
            let (owner, user) = (roles.named("overdue_owner"), roles.user("overdue_owner"));
            world.sql(&format!("ALTER ROLE {user} SET role = {owner}")).await;
            let nobody = format!("{}_nobody", world.name);
            world.sql(&format!("CREATE ROLE {nobody} LOGIN PASSWORD 'secret'")).await;
            let outcome = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(test(&roles))).await;
            let mut all = vec![nobody];
            all.extend(ROLES.iter().flat_map(|role| [roles.user(role), roles.named(role)]));
            let all = all.join(", ");
            world.sql(&format!("DROP OWNED BY {all} CASCADE; DROP ROLE {all}")).await;
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        })
        .await;
    }

    /// A text with this test's names for the roles.
    pub fn named(&self, text: &str) -> String {
        ROLES.iter().fold(text.to_owned(), |text, role| {
            text.replace(role, &role.replace("overdue", &self.world.name))
        })
    }

    pub fn user(&self, role: &str) -> String {
        format!("{}_user", self.named(role))
    }

    pub fn url(&self, user: &str) -> String {
        let mut url = Url::parse(&self.world.database_url).expect("a URL");
        url.set_username(user).expect("a user");
        url.set_password(Some("secret")).expect("a password");
        url.into()
    }

    pub fn url_of(&self, role: &str) -> String {
        self.url(&self.user(role))
    }

    pub async fn connect(&self, role: &str) -> PgConnection {
        PgConnection::connect(&self.url_of(role)).await.expect("a session")
    }

    pub async fn migrate(&self) {
        let (code, _, error) =
            self.world.run(&["migrate", "--database-url", &self.url_of("overdue_owner")]).await;
        assert_eq!((code, error.as_str()), (0, ""));
    }

    pub async fn grant(&self) {
        let mut owner = self.connect("overdue_owner").await;
        run(&mut owner, &self.named(include_str!("../../../postgres/grants.sql")))
            .await
            .expect("granted by the owner");
    }

    /// What the pod's role lacks.
    pub async fn lacking(&self) -> Vec<String> {
        let config = self.world.config(&[("database_url", &self.url_of("overdue_pod"))]);
        let pool = database::pool(&config).expect("a pool");
        let findings = database::verify(&pool, &config).await.expect("findings");
        pool.close().await;
        let texts = findings.into_iter().filter_map(|finding| match finding.outcome {
            Outcome::Differs { problem, remedy } => Some(format!("{problem}: {remedy}")),
            _ => None,
        });
        texts.collect()
    }
}

/// Runs statements as a role.
pub async fn run(session: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(session).await.map(|_| ())
}
