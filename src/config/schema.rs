//! Which schema holds the shop's tables.

/// The setting's value; without it the search path in the URL's `options`; without that `public`.
pub(super) fn schema(value: &str, options: Option<&str>) -> Result<String, String> {
    if !value.is_empty() {
        return if value.starts_with("pg_") || value == "information_schema" {
            Err(format!("`{value}` belongs to PostgreSQL; name the schema of the shop's tables"))
        } else {
            Ok(value.to_owned())
        };
    }
    let Some(path) = options.and_then(search_path) else { return Ok("public".to_owned()) };
    let names = names(&path)
        .ok_or_else(|| format!("`{path}`, the search_path of database_url, is not a list of names"))?;
    match <[String; 1]>::try_from(names) {
        Ok([name]) if name != "$user" => Ok(name),
        Ok(_) => {
            Err("the search_path of database_url is `$user`; name the schema of the shop's tables".to_owned())
        }
        Err(_) => Err(format!(
            "`{path}`, the search_path of database_url, names several schemas; name the one with the shop's tables"
        )),
    }
}

/// The search path in start-up options such as `-c search_path=berlin -c work_mem=8MB`; the last one applies.
fn search_path(options: &str) -> Option<String> {
    let mut last = None;
    let mut follows = false;
    for word in words(options) {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => {
                follows = true;
                continue;
            }
            Some(rest) => rest,
            None if follows => word.as_str(),
            None => continue,
        };
        follows = false;
        if let Some((name, value)) = setting.split_once('=')
            && name.replace('-', "_").eq_ignore_ascii_case("search_path")
        {
            last = Some(value.trim().to_owned());
        }
    }
    last
}

/// Words as PostgreSQL splits them: at white space, unless a backslash precedes it.
fn words(options: &str) -> Vec<String> {
    let (mut all, mut word, mut letters) = (Vec::new(), String::new(), options.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next()),
            space if space.is_ascii_whitespace() => all.push(std::mem::take(&mut word)),
            letter => word.push(letter),
        }
    }
    all.push(word);
    all.retain(|word| !word.is_empty());
    all
}

/// Names between commas, as SQL reads them: lower case, unless they are quoted.
fn names(path: &str) -> Option<Vec<String>> {
    let (mut all, mut rest) = (Vec::new(), path.trim());
    loop {
        let name;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut inner = String::new();
            let mut letters = quoted.char_indices().peekable();
            let end = loop {
                match letters.next()? {
                    (_, '"') if letters.peek().is_some_and(|(_, next)| *next == '"') => {
                        letters.next();
                        inner.push('"');
                    }
                    (at, '"') => break at + 1,
                    (_, letter) => inner.push(letter),
                }
            };
            (name, rest) = (inner, quoted[end..].trim_start());
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (name, rest) = (rest[..end].trim().to_lowercase(), &rest[end..]);
        }
        if name.is_empty() {
            return None;
        }
        all.push(name);
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return rest.is_empty().then_some(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_the_settings_else_the_urls_else_public() {
        for (value, options, expected) in [
            ("", None, Ok("public")),
            ("berlin", None, Ok("berlin")),
            ("berlin", Some("-c search_path=munich"), Ok("berlin")),
            ("", Some("-c search_path=munich"), Ok("munich")),
            ("", Some("-csearch_path=munich"), Ok("munich")),
            ("", Some("--search-path=munich"), Ok("munich")),
            ("", Some("-c search_path=Munich"), Ok("munich")),
            ("", Some("-c search_path=\"Munich\""), Ok("Munich")),
            ("", Some("-c search_path=\"a\\ \"\"b\""), Ok("a \"b")),
            ("", Some("-c work_mem=8MB"), Ok("public")),
            ("", Some("-c search_path=a -c search_path=b"), Ok("b")),
            ("", Some("-c search_path=a,b"), Err("several")),
            ("", Some("-c search_path=a,\\ public"), Err("several")),
            ("", Some("-c search_path=\"$user\""), Err("`$user`")),
            ("", Some("-c search_path="), Err("not a list of names")),
            ("", Some("-c search_path=\"a"), Err("not a list of names")),
            ("pg_temp", None, Err("belongs to PostgreSQL")),
        ] {
            let found = schema(value, options);
            match (&found, expected) {
                (Ok(name), Ok(expected)) => assert_eq!(name, expected, "{value} {options:?}"),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                _ => panic!("{value} {options:?}: {found:?}"),
            }
        }
    }
}
