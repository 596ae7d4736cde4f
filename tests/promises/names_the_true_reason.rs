//! Each trouble that somebody can have with the database is really caused, and the error names its reason, the setting, and
//! what to do; and not a remedy of another trouble.

use tokio::net::TcpListener;
use url::Url;

use crate::harness::{NOBODY, World, address, at};

/// Another role in the world's database, and the database's URL for it.
async fn role(world: &World, options: &str) -> (String, String) {
    let role = format!("{}_role", world.name);
    world.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'limited' {options}")).await;
    let mut url = Url::parse(&world.database_url).expect("a URL");
    url.set_username(&role).expect("a user");
    url.set_password(Some("limited")).expect("a password");
    (role, url.into())
}

async fn drop_role(world: &World, role: &str) {
    world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn of_a_database_that_cannot_be_reached() {
    World::with(async |world| {
        let show = ["order", "show", "1", "--database-url"];
        let fails = async |url: &str, words: &[&str], untrue: &[&str]| {
            world.fails(&[&show[..], &[url]].concat(), words, untrue).await;
        };
        let pool = ["pool timed out", "connection became free"];
        let closed = at(&world.database_url, "postgres", NOBODY);
        fails(
            &closed,
            &["cannot connect to 127.0.0.1:9: Connection refused", "PostgreSQL runs there"],
            &pool,
        )
        .await;
        let unknown = at(&world.database_url, "postgres", "nowhere.invalid:5432");
        fails(&unknown, &["nowhere.invalid:5432", "its name cannot be resolved"], &["PostgreSQL runs there"])
            .await;
        let broker = at(&world.database_url, "postgres", &address(&world.amqp_url));
        fails(&broker, &["check the port in database_url"], &["PostgreSQL runs there"]).await;
        let encrypted = format!("{}?sslmode=require", world.database_url);
        fails(&encrypted, &["does not support TLS", "sslmode"], &["PostgreSQL runs there"]).await;

        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = silent.local_addr().expect("an address").to_string();
        fails(&at(&world.database_url, "postgres", &place), &[&place, "no answer"], &["refused"]).await;

        let (role, url) = role(world, "CONNECTION LIMIT 0").await;
        let words = ["too many connections for role", "CONNECTION LIMIT", "database_connections"];
        fails(&url, &words, &["PostgreSQL runs there", pool[0]]).await;
        drop_role(world, &role).await;

        let certificate = format!("{}?sslrootcert=/nowhere/ca.pem", world.database_url);
        let (code, _, error) = world.run(&["run", "--database-url", &certificate]).await;
        assert_eq!(code, 2, "{error}");
        assert!(
            error.contains("`database_url`") && error.contains("sslrootcert names the file /nowhere/ca.pem"),
            "{error}"
        );

        // A few more than the runtime needs.
        let binary = world.command(&[]).as_std().get_program().to_str().expect("a path").to_owned();
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -n 9; exec {binary} order show 1")]);
        let output = command.env("DATABASE_URL", &world.database_url).output().await.expect("it ran");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(error.contains("Too many open files") && error.contains("LimitNOFILE"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn of_a_database_that_refuses() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA berlin; CREATE SCHEMA own; CREATE TABLE own.orders (id int)").await;
        let path = |url: &str, schema: &str| format!("{url}?options=-c%20search_path%3D{schema}");
        let migrate = ["migrate", "--database-url"];
        let (role, limited) = role(world, "").await;

        let words = ["permission denied for database", "GRANT CREATE ON DATABASE"];
        let bench = ["bench", "place", "--orders", "20", "--database-url", &limited];
        world.fails(&bench, &words, &["USAGE on the schema", "overdue migrate"]).await;

        let berlin = path(&limited, "berlin");
        world.sql("REVOKE CREATE ON SCHEMA berlin FROM PUBLIC").await;
        world.sql(&format!("GRANT USAGE ON SCHEMA berlin TO {role}")).await;
        let words = ["may not create tables in the schema berlin", "migrate as its owner", "GRANT CREATE ON SCHEMA"];
        world.fails(&[&migrate[..], &[&berlin]].concat(), &words, &["check user and password"]).await;
        world.sql(&format!("REVOKE USAGE ON SCHEMA berlin FROM {role}")).await;
        let own = path(&world.database_url, "own");
        let words = ["already holds a table `orders`", "is not Overdue's", "a schema of its own"];
        world.fails(&[&migrate[..], &[&own]].concat(), &words, &["check", "line"]).await;

        let (code, _, error) = world.run(&["migrate", "--database-url", &path(&world.database_url, "berlin")]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let show = |url: &str| ["order", "show", "1", "--database-url", url].map(str::to_owned);
        let refused = async |url: &str, words: &[&str], untrue: &[&str]| {
            world.fails(&show(url).each_ref().map(String::as_str), words, untrue).await;
        };
        let usage = format!("GRANT USAGE ON SCHEMA berlin TO {role}");
        refused(&berlin, &["the schema berlin has Overdue's tables", &usage], &["does not exist", "migrate"]).await;
        world.sql(&usage).await;
        let words = ["permission denied for table", "postgres/grants.sql"];
        refused(&berlin, &words, &["overdue migrate", "check user"]).await;
        // The tables are there, and elsewhere.
        let elsewhere = path(&world.database_url, "nowhere");
        refused(&elsewhere, &["in `schema` (OVERDUE_SCHEMA): berlin"], &["check user"]).await;
        drop_role(world, &role).await;

        let place = ["order", "place", "--user", "1"];
        // What a server says that has no room, or a pooler that changes sessions.
        for (code, expected) in [
            ("53100", "make room"),
            ("53200", "short of resources"),
            ("53300", "max_connections"),
            ("42P05", "database_pooler"),
            ("26000", "database_pooler"),
            ("57P03", "starting or shutting down"),
        ] {
            world
                .sql(&format!(
                    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                     $$BEGIN RAISE 'no' USING ERRCODE = '{code}'; END$$;
                     CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse()"
                ))
                .await;
            world.fails(&place, &[code, expected], &["overdue migrate", "PostgreSQL runs there"]).await;
        }
    })
    .await;
}
