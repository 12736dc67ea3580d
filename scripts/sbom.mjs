// Writes a CycloneDX bill of materials (https://cyclonedx.org/docs/1.6/json/) of what duet's binary is made of to standard output:
// node scripts/sbom.mjs TREE Cargo.lock package-lock.json, where TREE is what scripts/sbom.sh has cargo tell.
// The same input gives the same bytes: there is no date and no random number in it.
import { readFileSync } from "node:fs";

const [tree, cargoLock, packageLock] = process.argv.slice(2).map((file) => readFileSync(file, "utf8"));

/** Checksums by `name version`, as Cargo.lock has them. */
const checksums = new Map(
  cargoLock.split("[[package]]").map((entry) => {
    const field = (name) => entry.match(new RegExp(`^${name} = "(.*)"$`, "m"))?.[1];
    return [`${field("name")} ${field("version")}`, field("checksum")];
  }),
);

const components = new Map();
const edges = new Map();
const add = (ref, component) => {
  if (!components.has(ref)) components.set(ref, component);
  if (!edges.has(ref)) edges.set(ref, new Set());
};

// Each line: depth, `name vVERSION (more)`, licence. A crate that was shown before has no children the second time.
const path = [];
for (const line of tree.split("\n").filter(Boolean)) {
  const [, depth, name, version, license] = line.match(/^(\d+)(\S+) v(\S+)[^|]*\|(.*?)( \(\*\))?$/) ?? [];
  if (!name) throw new Error(`not a line of cargo tree: ${line}`);
  const ref = `pkg:cargo/${name}@${version}`;
  const checksum = checksums.get(`${name} ${version}`);
  if (Number(depth) > 0 && !checksum) throw new Error(`${name} ${version} comes from no registry`);
  add(ref, {
    type: Number(depth) > 0 ? "library" : "application",
    "bom-ref": ref,
    name,
    version,
    // Cargo still knows the form `MIT/Apache-2.0`, which SPDX does not.
    licenses: license ? [{ expression: license.replaceAll("/", " OR ") }] : [],
    purl: ref,
    ...(checksum && { hashes: [{ alg: "SHA-256", content: checksum }] }),
  });
  path.length = Number(depth);
  if (path.length > 0) edges.get(path.at(-1)).add(ref);
  path.push(ref);
}
const root = path[0];

const { packages } = JSON.parse(packageLock);
const npmRef = (name, version) => `pkg:npm/${name.replace("@", "%40")}@${version}`;
const installed = Object.entries(packages).filter(([at, { dev }]) => at.startsWith("node_modules/") && !dev);
const refByPath = new Map(
  installed.map(([at, { version }]) => [at, npmRef(at.slice(at.lastIndexOf("node_modules/") + 13), version)]),
);
for (const [at, { version, integrity, license, dependencies = {} }] of installed) {
  const [algorithm, digest] = integrity.split("-");
  const ref = refByPath.get(at);
  add(ref, {
    type: "library",
    "bom-ref": ref,
    name: at.slice(at.lastIndexOf("node_modules/") + 13),
    version,
    licenses: license ? [{ expression: license }] : [],
    purl: ref,
    hashes: [{ alg: algorithm.replace("sha", "SHA-"), content: Buffer.from(digest, "base64").toString("hex") }],
  });
  for (const name of Object.keys(dependencies)) {
    const found = refByPath.get(`${at}/node_modules/${name}`) ?? refByPath.get(`node_modules/${name}`);
    if (found) edges.get(ref).add(found);
  }
}
for (const name of Object.keys(packages[""].dependencies)) edges.get(root).add(refByPath.get(`node_modules/${name}`));

const sorted = (map) => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
const component = components.get(root);
components.delete(root);
const bom = {
  $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
  bomFormat: "CycloneDX",
  specVersion: "1.6",
  version: 1,
  metadata: { component },
  components: sorted(components).map(([, value]) => value),
  dependencies: sorted(edges).map(([ref, on]) => ({ ref, dependsOn: [...on].sort() })),
};
process.stdout.write(`${JSON.stringify(bom, null, 1)}\n`);
