// Holds each custom resource, given as JSON on standard input, against the schema of its kind.
// node custom.mjs FOLDER, where FOLDER/node_modules holds the schemas.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const packages = resolve(process.argv[2], "node_modules/@kubernetes-models");
const { kedaSh } = await import(`${packages}/keda/index.js`);
const { monitoringCoreosCom } = await import(`${packages}/prometheus-operator/index.js`);
const { gatewayNetworkingK8sIo } = await import(`${packages}/gateway-api/index.js`);
const { gatewayEnvoyproxyIo } = await import(`${packages}/envoy-gateway/index.js`);
const groups = {
  "keda.sh": kedaSh,
  "monitoring.coreos.com": monitoringCoreosCom,
  "gateway.networking.k8s.io": gatewayNetworkingK8sIo,
  "gateway.envoyproxy.io": gatewayEnvoyproxyIo,
};

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = resource.apiVersion.split("/");
  const Model = groups[group]?.[version]?.[resource.kind];
  if (!Model) throw new Error(`no schema for ${resource.apiVersion} ${resource.kind}`);
  new Model(resource).validate();
  console.log(`valid: ${resource.kind} ${resource.metadata.name}`);
}
