/**
 * Session stores on Node: in a file of SQLite, or in the database of an `SqlClient`.
 *
 * @since 0.1.0
 */
export * from "../../services/SessionStore.ts"
export { layerMemory, makeMemory } from "./MemorySessionStore.ts"
export { SqliteDatabase, SqliteError } from "./SqliteDatabase.ts"
export type { SqliteDatabaseService, SqliteRow, SqliteValue } from "./SqliteDatabase.ts"
export { layerSql, makeSql } from "./SqlSessionStore.ts"
export type { SqlOptions } from "./SqlSessionStore.ts"
export { layerSqlite, makeSqlite } from "./SqliteSessionStore.ts"
export type { SqliteOptions } from "./SqliteSessionStore.ts"
