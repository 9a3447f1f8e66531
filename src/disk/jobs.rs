//! Where operators' jobs stand: one row of `meta` each, under `job/` and its name, written in the transaction of the work
//! that it tells of. What a row says is the admin API's; here it is text.

use rusqlite::params;

use super::fault::JobFault;
use super::job::Tx;
use super::readers::Rx;

impl Tx<'_> {
    /// Writes where a job stands.
    pub fn put_job(&mut self, name: &str, text: &str) -> Result<(), JobFault> {
        let mut put = self.conn.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('job/' || ?1, ?2)")?;
        put.execute(params![name, text])?;
        Ok(())
    }

    /// Forgets a job.
    pub fn delete_job(&mut self, name: &str) -> Result<(), JobFault> {
        self.conn.prepare_cached("DELETE FROM meta WHERE key = 'job/' || ?1")?.execute([name])?;
        Ok(())
    }
}

impl Rx<'_> {
    /// What was written of every job, in the order of their names.
    pub fn jobs(&self) -> Result<Vec<String>, JobFault> {
        // `0` is the character behind the slash.
        let mut query =
            self.conn.prepare_cached("SELECT value FROM meta WHERE key > 'job/' AND key < 'job0' ORDER BY key")?;
        let rows = query.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
