// A program of a user of npm's @kubernetes/client-node: typed clients, the client for any kind, watches, an informer, logs, exec,
// port-forward and custom resources. It says one line per check; the suite compares them. The package's place is told in
// ACTORIUM_JAVASCRIPT_CLIENT, the cluster in KUBECONFIG.

import assert from 'node:assert/strict';
import net from 'node:net';
import { PassThrough, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';

const k8s = await import(pathToFileURL(`${process.env.ACTORIUM_JAVASCRIPT_CLIENT}/dist/index.js`));

const IMAGE = 'actorium.local/busybox:1';
const namespace = 'javascript';
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const any = k8s.KubernetesObjectApi.makeApiClient(config);

// Waits until `check` says something true, and returns that.
async function waitFor(what, check, boundMs = 30_000) {
  const end = Date.now() + boundMs;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${boundMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

// The code and the Status of a call that must be refused.
async function refused(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof k8s.ApiException)) throw error;
    const body = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    return [error.code, body?.reason];
  }
  throw new Error('it was not refused');
}

function collected() {
  let text = '';
  const stream = new Writable({
    write(part, _, done) {
      text += part;
      done();
    },
  });
  stream.text = () => text;
  return stream;
}

const map = (name, data = {}, labels = {}) => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace, labels }, data });
const pod = (name, script) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'main', image: IMAGE, command: ['sh', '-c', script] }],
  },
});

const ready = (name) =>
  waitFor(`${name} is ready`, async () => {
    const found = await core.readNamespacedPod({ name, namespace });
    return found.status?.conditions?.some((it) => it.type === 'Ready' && it.status === 'True');
  });

const checks = {
  async discovery() {
    const versions = await config.makeApiClient(k8s.ApisApi).getAPIVersions();
    assert(versions.groups.some((group) => group.name === 'apps'));
    const version = await config.makeApiClient(k8s.VersionApi).getCode();
    assert.equal(version.major, '1');
  },

  async create() {
    await core.createNamespace({ body: { metadata: { name: namespace } } });
    const created = await core.createNamespacedConfigMap({ namespace, body: map('a', { key: '1' }, { app: 'x' }) });
    assert(created.metadata.creationTimestamp instanceof Date, 'times are dates');
    assert.deepEqual(await refused(() => core.createNamespacedConfigMap({ namespace, body: map('a') })), [409, 'AlreadyExists']);
    const dry = await core.createNamespacedConfigMap({ namespace, body: map('dry'), dryRun: 'All' });
    assert(dry.metadata.uid);
    assert.deepEqual(await refused(() => core.readNamespacedConfigMap({ name: 'dry', namespace })), [404, 'NotFound']);
    assert.deepEqual(await refused(() => core.createNamespacedConfigMap({ namespace, body: map('Not a name') })), [422, 'Invalid']);
  },

  async lists() {
    for (const name of ['b', 'c', 'd']) {
      await core.createNamespacedConfigMap({ namespace, body: map(name, { key: name }, { app: 'y' }) });
    }
    const names = [];
    let token;
    do {
      const page = await core.listNamespacedConfigMap({ namespace, limit: 2, _continue: token });
      names.push(...page.items.map((item) => item.metadata.name));
      token = page.metadata._continue;
    } while (token);
    assert.deepEqual(names, ['a', 'b', 'c', 'd', 'kube-root-ca.crt']);
    const selected = await core.listNamespacedConfigMap({ namespace, labelSelector: 'app in (y),!none', fieldSelector: 'metadata.name!=c' });
    assert.deepEqual(selected.items.map((item) => item.metadata.name), ['b', 'd']);
  },

  async patches() {
    const with_ = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);
    const patch = (body, strategy, more = {}) =>
      core.patchNamespacedConfigMap({ name: 'a', namespace, body, ...more }, with_(strategy));
    let found = await patch([{ op: 'replace', path: '/data/key', value: '2' }], k8s.PatchStrategy.JsonPatch);
    assert.equal(found.data.key, '2');
    found = await patch({ data: { key: '3', more: 'x' } }, k8s.PatchStrategy.MergePatch);
    assert.deepEqual(found.data, { key: '3', more: 'x' });
    found = await patch({ data: { more: null } }, k8s.PatchStrategy.StrategicMergePatch);
    assert.deepEqual(found.data, { key: '3' });
    const applied = map('a', { mine: 'yes' });
    found = await patch(applied, k8s.PatchStrategy.ServerSideApply, { fieldManager: 'program' });
    assert.equal(found.data.mine, 'yes');
    const conflict = () => patch(map('a', { mine: 'no' }), k8s.PatchStrategy.ServerSideApply, { fieldManager: 'other' });
    assert.deepEqual(await refused(conflict), [409, 'Conflict']);
    const bad = () => patch([{ op: 'test', path: '/data/key', value: '9' }], k8s.PatchStrategy.JsonPatch);
    assert.deepEqual(await refused(bad), [422, 'Invalid']);
  },

  async replace() {
    const found = await core.readNamespacedConfigMap({ name: 'a', namespace });
    found.data = { key: '4' };
    const written = await core.replaceNamespacedConfigMap({ name: 'a', namespace, body: found });
    assert.deepEqual(written.data, { key: '4' });
    const stale = () => core.replaceNamespacedConfigMap({ name: 'a', namespace, body: found });
    assert.deepEqual(await refused(stale), [409, 'Conflict']);
  },

  // Objects whose kind is known only when the program runs.
  async any_kind() {
    const quota = { apiVersion: 'v1', kind: 'ResourceQuota', metadata: { name: 'q', namespace }, spec: { hard: { pods: '20' } } };
    await any.create(quota);
    const found = await any.read(quota);
    assert.equal(found.spec.hard.pods, '20');
    found.spec.hard.pods = '30';
    await any.replace(found);
    await any.patch({ ...quota, spec: { hard: { secrets: '9' } } }, undefined, undefined, 'program', undefined, k8s.PatchStrategy.MergePatch);
    const list = await any.list('v1', 'ResourceQuota', namespace);
    assert.deepEqual(list.items[0].spec.hard, { pods: '30', secrets: '9' });
    await any.delete(quota);
    assert.deepEqual(await refused(() => any.read(quota)), [404, 'NotFound']);
  },

  async watch() {
    const list = await core.listNamespacedConfigMap({ namespace });
    const seen = [];
    let ended;
    const over = new Promise((resolve) => (ended = resolve));
    const query = { resourceVersion: list.metadata.resourceVersion, labelSelector: 'watched=yes', allowWatchBookmarks: true };
    const watching = await new k8s.Watch(config).watch(
      `/api/v1/namespaces/${namespace}/configmaps`,
      query,
      (phase, object) => seen.push(`${phase} ${object.metadata?.name}`),
      ended,
    );
    await core.createNamespacedConfigMap({ namespace, body: map('w', {}, { watched: 'yes' }) });
    await core.createNamespacedConfigMap({ namespace, body: map('v', {}, { watched: 'no' }) });
    const body = { metadata: { labels: { watched: 'no' } } };
    const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
    await core.patchNamespacedConfigMap({ name: 'w', namespace, body }, merge);
    const events = () => seen.filter((event) => !event.startsWith('BOOKMARK'));
    await waitFor('the events', () => events().length === 2);
    assert.deepEqual(events(), ['ADDED w', 'DELETED w'], 'an object that leaves the selection is deleted');
    await waitFor('a bookmark', () => seen.some((event) => event.startsWith('BOOKMARK')));
    watching.abort();
    await over;
  },

  async informer() {
    const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/secrets`, () => core.listNamespacedSecret({ namespace }));
    const seen = [];
    for (const verb of ['add', 'update', 'delete']) informer.on(verb, (object) => seen.push(`${verb} ${object.metadata.name}`));
    informer.on('error', (error) => seen.push(`error ${error}`));
    await informer.start();
    const secret = { metadata: { name: 's' }, stringData: { word: 'hidden' } };
    await core.createNamespacedSecret({ namespace, body: secret });
    await waitFor('the informer sees it', () => informer.get('s', namespace));
    assert.equal(informer.get('s', namespace).data.word, 'aGlkZGVu');
    const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
    await core.patchNamespacedSecret({ name: 's', namespace, body: { stringData: { word: 'other' } } }, merge);
    await core.deleteNamespacedSecret({ name: 's', namespace });
    await waitFor('three events', () => seen.length === 3);
    assert.deepEqual(seen, ['add s', 'update s', 'delete s']);
    await informer.stop();
  },

  async deployment() {
    const labels = { app: 'web' };
    const template = { metadata: { labels }, spec: pod('', 'trap exit TERM; while true; do sleep 0.1; done').spec };
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'web' }, spec: { replicas: 2, selector: { matchLabels: labels }, template } } });
    const state = async () => (await apps.readNamespacedDeploymentStatus({ name: 'web', namespace })).status;
    await waitFor('two replicas', async () => (await state()).readyReplicas === 2);
    const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
    await apps.patchNamespacedDeploymentScale({ name: 'web', namespace, body: { spec: { replicas: 1 } } }, merge);
    await waitFor('one replica', async () => (await state()).replicas === 1);
    const deleted = await apps.deleteNamespacedDeployment({ name: 'web', namespace, propagationPolicy: 'Foreground' });
    assert(deleted);
    await waitFor('it is gone', async () => (await core.listNamespacedPod({ namespace, labelSelector: 'app=web' })).items.length === 0);
  },

  async logs() {
    await core.createNamespacedPod({ namespace, body: pod('talks', 'for i in 1 2 3; do echo line $i; done; trap exit TERM; while true; do sleep 0.1; done') });
    await ready('talks');
    await waitFor('its lines', async () => (await core.readNamespacedPodLog({ name: 'talks', namespace })) === 'line 1\nline 2\nline 3\n');
    assert.equal(await core.readNamespacedPodLog({ name: 'talks', namespace, tailLines: 1 }), 'line 3\n');
    const followed = collected();
    const following = await new k8s.Log(config).log(namespace, 'talks', 'main', followed, { follow: true });
    await waitFor('the followed lines', () => followed.text() === 'line 1\nline 2\nline 3\n');
    following.abort();
  },

  async exec() {
    const [out, err] = [collected(), collected()];
    const input = new PassThrough();
    const status = new Promise((resolve, reject) => {
      const command = ['sh', '-c', 'read word; echo heard $word; echo complains >&2; exit 3'];
      new k8s.Exec(config).exec(namespace, 'talks', 'main', command, out, err, input, false, resolve).catch(reject);
    });
    input.write('this\n');
    const { status: outcome, details } = await status;
    assert.deepEqual([outcome, details.causes[0].message], ['Failure', '3']);
    assert.equal(out.text(), 'heard this\n');
    assert.equal(err.text(), 'complains\n');
    assert.deepEqual(await execRefused('nobody'), true);
  },

  async port_forward() {
    await core.createNamespacedPod({ namespace, body: pod('page', 'mkdir /w; echo the page > /w/index.html; httpd -f -p 8080 -h /w') });
    await ready('page');
    const forward = new k8s.PortForward(config);
    const server = net.createServer((socket) => {
      forward.portForward(namespace, 'page', [8080], socket, null, socket).catch((error) => socket.destroy(error));
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    // The pod may not listen as yet; the client leaves a connection open that was refused there.
    const address = `http://127.0.0.1:${server.address().port}/`;
    const ask = () => fetch(address, { signal: AbortSignal.timeout(1_000) }).then((answer) => answer.ok && answer.text(), () => false);
    const page = await waitFor('the page', ask);
    assert.equal(page, 'the page\n');
    server.close();
    server.closeAllConnections?.();
  },

  async rights() {
    const may = async (verb, resource) => {
      const spec = { resourceAttributes: { namespace, verb, resource } };
      const api = config.makeApiClient(k8s.AuthorizationV1Api);
      return (await api.createSelfSubjectAccessReview({ body: { spec } })).status.allowed;
    };
    assert.equal(await may('delete', 'pods'), true);
    const body = { spec: { expirationSeconds: 600, audiences: [] } };
    const { token } = (await core.createNamespacedServiceAccountToken({ name: 'default', namespace, body })).status;
    const other = new k8s.KubeConfig();
    const cluster = config.getCurrentCluster();
    other.loadFromClusterAndUser(cluster, { name: 'account', token });
    const asAccount = other.makeApiClient(k8s.CoreV1Api);
    assert.deepEqual(await refused(() => asAccount.listNamespacedSecret({ namespace })), [403, 'Forbidden']);
    other.loadFromClusterAndUser(cluster, { name: 'nobody', token: `${token}x` });
    // The client keeps no body of this answer.
    const stranger = other.makeApiClient(k8s.CoreV1Api);
    assert.deepEqual(await refused(() => stranger.listNamespacedSecret({ namespace })), [401, undefined]);
  },

  // A kind of the user's own, through the clients for kinds that were not known when they were written.
  async custom_resources() {
    const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
    const customs = config.makeApiClient(k8s.CustomObjectsApi);
    const [group, plural] = ['javascript.example', 'shelves'];
    const integer = { type: 'integer' };
    const properties = {
      spec: { type: 'object', _default: {}, properties: { boards: { ...integer, minimum: 1, _default: 3 } } },
      status: { type: 'object', properties: { boards: integer } },
    };
    const subresources = { status: {}, scale: { specReplicasPath: '.spec.boards', statusReplicasPath: '.status.boards' } };
    const schema = { openAPIV3Schema: { type: 'object', properties } };
    await definitions.createCustomResourceDefinition({
      body: {
        metadata: { name: `${plural}.${group}` },
        spec: { group, scope: 'Namespaced', names: { plural, singular: 'shelf', kind: 'Shelf' }, versions: [{ name: 'v1', served: true, storage: true, schema, subresources }] },
      },
    });
    await waitFor('the kind is established', async () => {
      const found = await definitions.readCustomResourceDefinition({ name: `${plural}.${group}` });
      return found.status?.conditions?.some((it) => it.type === 'Established' && it.status === 'True');
    });
    const at = { group, version: 'v1', namespace, plural };
    const shelf = (name, spec) => ({ apiVersion: `${group}/v1`, kind: 'Shelf', metadata: { name, namespace }, spec });
    const made = await customs.createNamespacedCustomObject({ ...at, body: shelf('oak', {}) });
    assert.equal(made.spec.boards, 3, 'defaults of the schema');
    const none = () => customs.createNamespacedCustomObject({ ...at, body: shelf('none', { boards: 0 }) });
    assert.deepEqual(await refused(none), [422, 'Invalid']);
    await any.create(shelf('pine', { boards: 7 }));
    const list = await customs.listNamespacedCustomObject(at);
    assert.deepEqual(list.items.map((item) => item.spec.boards), [3, 7]);
    const seen = [];
    let ended;
    const over = new Promise((resolve) => (ended = resolve));
    const watching = await new k8s.Watch(config).watch(
      `/apis/${group}/v1/namespaces/${namespace}/${plural}`,
      { resourceVersion: list.metadata.resourceVersion },
      (phase, object) => seen.push(`${phase} ${object.metadata.name} ${object.spec.boards}`),
      ended,
    );
    const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
    const json = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch);
    const oak = { ...at, name: 'oak' };
    await customs.patchNamespacedCustomObject({ ...oak, body: { spec: { boards: 4 } } }, merge);
    await customs.patchNamespacedCustomObject({ ...oak, body: [{ op: 'replace', path: '/spec/boards', value: 5 }] }, json);
    const scale = await customs.getNamespacedCustomObjectScale(oak);
    assert.deepEqual([scale.kind, scale.spec.replicas], ['Scale', 5]);
    await customs.patchNamespacedCustomObjectScale({ ...oak, body: { spec: { replicas: 6 } } }, merge);
    const kept = await customs.patchNamespacedCustomObjectStatus({ ...oak, body: { spec: { boards: 1 }, status: { boards: 2 } } }, merge);
    assert.deepEqual([kept.spec.boards, kept.status.boards], [6, 2], 'the path of status writes status alone');
    const stale = await customs.getNamespacedCustomObject(oak);
    await customs.replaceNamespacedCustomObject({ ...oak, body: { ...stale, spec: { boards: 8 } } });
    assert.deepEqual(await refused(() => customs.replaceNamespacedCustomObject({ ...oak, body: stale })), [409, 'Conflict']);
    await customs.deleteNamespacedCustomObject(oak);
    await waitFor('the end of the shelf is seen', () => seen.includes('DELETED oak 8'));
    const boards = seen.filter((event) => event.startsWith('MODIFIED')).map((event) => Number(event.split(' ')[2]));
    assert.deepEqual(boards, [4, 5, 6, 6, 8]);
    watching.abort();
    await over;
    await definitions.deleteCustomResourceDefinition({ name: `${plural}.${group}` });
    await waitFor('the kind is gone', async () => (await refused(() => customs.listNamespacedCustomObject(at)).catch(() => [0]))[0] === 404);
  },

  async remove() {
    const status = await core.deleteNamespacedConfigMap({ name: 'a', namespace });
    assert(status);
    await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector: 'app=y' });
    const left = await core.listNamespacedConfigMap({ namespace, labelSelector: 'app' });
    assert.deepEqual(left.items, []);
    await core.deleteNamespace({ name: namespace });
    await waitFor('the namespace is gone', async () => (await refused(() => core.readNamespace({ name: namespace })).catch(() => [0]))[0] === 404, 60_000);
  },
};

// Whether exec in a pod that is not there is refused.
async function execRefused(name) {
  const exec = new k8s.Exec(config);
  return exec.exec(namespace, name, 'main', ['true'], null, null, null, false).then(
    () => false,
    () => true,
  );
}

const only = process.argv.slice(2);
let failures = 0;
for (const [name, check] of Object.entries(checks)) {
  if (only.length > 0 && !only.includes(name)) continue;
  const begun = performance.now();
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED ${name}`);
    console.error(`${name}:`, error);
  }
  console.error(`measured: ${name}: ${Math.round(performance.now() - begun)} ms`);
}
process.exit(failures);
